"""The reservation routes that are not hot: ask, list, cancel. See `hot.py` for the others."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from litestar import Router, get, post
from litestar.params import QueryParameter

from korder.domains.reservation.contract import ReservationStatus
from korder.domains.reservation.service import Reservation, ReservationService
from korder.domains.user.contract import UserContract
from korder.kernel.errors import Code, Refusal
from korder.platform.auth import Principal
from korder.platform.http.common import (
    LIMIT_DEFAULT,
    Cursor,
    Limit,
    Page,
    bad_cursor,
    decode_cursor,
    encode_cursor,
    problems,
)

EventFilter = Annotated[
    UUID | None, QueryParameter(required=False, description="Only of this event.")
]
StatusFilter = Annotated[
    ReservationStatus | None, QueryParameter(required=False, description="Only in this state.")
]
TAG = ["Reservations"]


def router(
    service: ReservationService,
    users: UserContract,
    organizer_of: Callable[[UUID], Awaitable[UUID | None]],
) -> Router:
    """The routes, bound to a service. `organizer_of` tells whose an event is."""

    @get(
        "/v1/reservations/{reservation_id:uuid}",
        summary="One of my reservations",
        description="Ask again while `status` is `queued`. A refused one is `rejected`, and "
        "`reason` is the error code.",
        tags=TAG,
        responses=problems(Code.UNAUTHENTICATED, Code.NOT_FOUND),
    )
    async def get_reservation(principal: Principal, reservation_id: UUID) -> Reservation:
        return await service.get(principal.member_id, reservation_id)

    @get(
        "/v1/reservations",
        summary="My reservations, newest first",
        tags=TAG,
        responses=problems(Code.UNAUTHENTICATED, Code.INVALID_REQUEST),
    )
    async def list_reservations(
        principal: Principal,
        event_id: EventFilter = None,
        status: StatusFilter = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Reservation]:
        found = await service.list_mine(
            principal.member_id,
            event_id=event_id,
            status=status,
            before=_before(cursor),
            limit=limit + 1,
        )
        return _page(found, limit)

    @post(
        "/v1/reservations/{reservation_id:uuid}/cancel",
        status_code=200,
        summary="Give a hold back",
        description="The tickets are free again within a second. Repeating it is harmless.",
        tags=TAG,
        responses=problems(
            Code.UNAUTHENTICATED, Code.NOT_FOUND, Code.INVALID_STATE, Code.RESERVATION_EXPIRED
        ),
    )
    async def cancel_reservation(principal: Principal, reservation_id: UUID) -> Reservation:
        return await service.cancel(principal.member_id, reservation_id)

    @get(
        "/v1/events/{event_id:uuid}/reservations",
        summary="An event's reservations, for its organizer",
        tags=TAG,
        responses=problems(Code.UNAUTHENTICATED, Code.NOT_FOUND, Code.INVALID_REQUEST),
    )
    async def list_event_reservations(
        principal: Principal,
        event_id: UUID,
        status: StatusFilter = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Reservation]:
        mine = await organizer_of(event_id) == principal.member_id
        if not mine and "admin" not in await users.roles_of(principal.member_id):
            raise Refusal(Code.NOT_FOUND)
        found = await service.list_of_event(
            event_id,
            status=status,
            before=_before(cursor),
            limit=limit + 1,
        )
        return _page(found, limit)

    handlers: list[Any] = [
        get_reservation,
        list_reservations,
        cancel_reservation,
        list_event_reservations,
    ]
    return Router(path="/", route_handlers=handlers, security=[{"bearer": []}])


def _before(cursor: str | None) -> UUID | None:
    raw = decode_cursor(cursor)
    if raw is None:
        return None
    if len(raw) != 16:
        raise bad_cursor()
    return UUID(bytes=raw)


def _page(found: list[Reservation], limit: int) -> Page[Reservation]:
    """`found` has one more than asked for when there is another page."""
    items = found[:limit]
    more = len(found) > limit
    return Page(items, encode_cursor(items[-1].id.bytes) if more else None)

"""The routes of the Events section, but for availability, which is served raw.

`GET /v1/events/{id}` without a token is served raw too; here it is for whoever may see drafts.
"""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from litestar import Request, Response, Router, get, patch, post
from litestar.di import Provide
from litestar.params import QueryParameter

from korder.domains.event.bodies import CancelBody, EventBody, EventPatch, TicketTypePatch
from korder.domains.event.listing import QUERY_MAX, Place, Wanted
from korder.domains.event.model import Status
from korder.domains.event.service import EventService
from korder.domains.event.views import Event, TicketType
from korder.kernel.errors import Code
from korder.platform.auth import Authenticator, Principal
from korder.platform.http.common import (
    LIMIT_DEFAULT,
    Cursor,
    Limit,
    Page,
    answered,
    bad_cursor,
    decode_cursor,
    encode_cursor,
    no_nul,
    problems,
)
from korder.platform.idempotency import IdempotencyKey

_CHANGING: Final = (
    Code.UNAUTHENTICATED,
    Code.FORBIDDEN,
    Code.NOT_FOUND,
    Code.INVALID_STATE,
    Code.INVALID_REQUEST,
    Code.OVERLOADED,
)
_BEARER: Final[list[dict[str, list[str]]]] = [{"bearer": []}]
_BEARER_OR_NONE: Final[list[dict[str, list[str]]]] = [{}, *_BEARER]
Query = Annotated[
    str | None,
    QueryParameter(max_length=QUERY_MAX, description="Part of the title or the venue."),
]
StatusQuery = Annotated[
    Status | None,
    QueryParameter(description="Without it: what is published, or, of one's own, everything."),
]
OrganizerQuery = Annotated[
    Literal["me"] | None, QueryParameter(description="`me`: my own events, drafts included.")
]


def controllers(service: EventService, authenticator: Authenticator) -> Router:
    """The router of the event domain."""

    async def provide_asker(request: Request[Any, Any, Any]) -> Principal | None:
        """Who asks where nobody has to say; a token that is sent must be good all the same."""
        header = next((v for k, v in request.scope["headers"] if k == b"authorization"), None)
        return None if header is None else await authenticator.authenticate_fresh(header)

    return Router(
        path="/v1/events",
        route_handlers=[
            create_event,
            list_events,
            get_event,
            patch_event,
            publish_event,
            cancel_event,
            patch_ticket_type,
        ],
        dependencies={
            "service": Provide(lambda: service, sync_to_thread=False),
            "asker": Provide(provide_asker),
        },
        tags=["Events"],
    )


@post(
    "/",
    summary="Create an event",
    description="A new event is a draft, seen by its organizer and admins alone.",
    security=_BEARER,
    responses=problems(
        Code.UNAUTHENTICATED,
        Code.FORBIDDEN,
        Code.INVALID_REQUEST,
        Code.IDEMPOTENCY_CONFLICT,
        Code.OVERLOADED,
    ),
)
async def create_event(
    data: EventBody,
    principal: Principal,
    idempotency_key: IdempotencyKey | None,
    service: EventService,
) -> Response[Event]:
    """See `EventService.create`."""
    return answered(await service.create(principal, data.details(), data.types(), idempotency_key))


@get(
    "/",
    summary="List events, newest sale first",
    description="Everybody sees what was published; drafts only their organizer and admins.",
    security=_BEARER_OR_NONE,
    responses=problems(Code.UNAUTHENTICATED, Code.INVALID_REQUEST, Code.OVERLOADED),
)
async def list_events(
    service: EventService,
    asker: Principal | None,
    q: Query = None,
    status: StatusQuery = None,
    organizer: OrganizerQuery = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT_DEFAULT,
) -> Page[Event]:
    """See `EventService.list`."""
    no_nul(q=q)
    try:
        after = Place.of(decode_cursor(cursor))
    except ValueError:
        raise bad_cursor() from None
    items, following = await service.list(
        Wanted(q, status, organizer), asker, after=after, limit=limit
    )
    return Page(items, None if following is None else encode_cursor(following.raw()))


@get(
    "/{event_id:uuid}",
    summary="Read an event",
    description="An event with its ticket types. A draft is not found by others.",
    security=_BEARER_OR_NONE,
    responses=problems(Code.UNAUTHENTICATED, Code.NOT_FOUND, Code.OVERLOADED),
)
async def get_event(event_id: UUID, service: EventService, asker: Principal | None) -> Event:
    """See `EventService.get`."""
    return await service.get(event_id, asker)


@patch(
    "/{event_id:uuid}",
    summary="Change an event",
    description="A published event keeps its currency; a cancelled one changes no more.",
    security=_BEARER,
    responses=problems(*_CHANGING),
)
async def patch_event(
    event_id: UUID, data: EventPatch, principal: Principal, service: EventService
) -> Event:
    """See `EventService.patch`."""
    return await service.patch(principal, event_id, data.changes())


@post(
    "/{event_id:uuid}/publish",
    status_code=200,
    summary="Publish an event",
    description="Puts it on sale from `sale_opens_at` (default: now) on. Repeating it is harmless.",
    security=_BEARER,
    responses=problems(*_CHANGING),
)
async def publish_event(event_id: UUID, principal: Principal, service: EventService) -> Event:
    """See `EventService.publish`."""
    return await service.publish(principal, event_id)


@post(
    "/{event_id:uuid}/cancel",
    status_code=200,
    summary="Cancel an event",
    description="Closes the sale for good and cancels its holds. A second call changes nothing.",
    security=_BEARER,
    responses=problems(*_CHANGING),
)
async def cancel_event(
    event_id: UUID, data: CancelBody, principal: Principal, service: EventService
) -> Event:
    """See `EventService.cancel`."""
    no_nul(reason=data.reason)
    return await service.cancel(principal, event_id, data.reason)


@patch(
    "/{event_id:uuid}/ticket-types/{ticket_type_id:uuid}",
    summary="Change a ticket type, also while it sells",
    description="The capacity can be raised and lowered, but never below what is held and sold.",
    security=_BEARER,
    responses=problems(*_CHANGING, Code.CAPACITY_BELOW_COMMITTED),
)
async def patch_ticket_type(
    event_id: UUID,
    ticket_type_id: UUID,
    data: TicketTypePatch,
    principal: Principal,
    service: EventService,
) -> TicketType:
    """See `EventService.patch_ticket_type`."""
    return await service.patch_ticket_type(principal, event_id, ticket_type_id, data.changes())

"""Use cases of the event domain; the edges of its transactions.

Every change commits here first and is then told to the sale side; see `announce.py` and
`ticket_types.py` for what happens when something dies in between.
"""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from korder.domains.event import listing, model
from korder.domains.event.announce import Announcer, queries
from korder.domains.event.cache import PublicEvents
from korder.domains.event.listing import Place, Wanted
from korder.domains.event.model import Changes, Details, NewTicketType, NumberChanges
from korder.domains.event.ticket_types import TicketTypes
from korder.domains.event.views import Event, TicketType, is_public, to_details, to_event
from korder.domains.reservation.contract import ReservationContract
from korder.domains.user.contract import UserContract, allowed, require_role
from korder.kernel.clock import utc_now
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import new_id
from korder.platform.auth import Principal
from korder.platform.idempotency import Answer, IdempotencyKey, fingerprint_of, once
from korder.platform.postgres import Connection, Pool, transaction

#: The contract promises 24 hours; twice that forgives a client's clock and a long outage.
ANSWERS_KEPT_H = 48
#: Kept answers deleted in one transaction of the housekeeping.
HOUSEKEEPING_BATCH = 1000
TOPIC = "event"


class Invalidation(Protocol):
    """What this domain needs of `korder.platform.invalidation.Invalidation`."""

    def on(self, topic: str, callback: Any) -> None:
        """Call back whenever something of this topic changed."""
        ...

    async def publish(self, topic: str, key: str) -> None:
        """Tell all processes; never raises."""
        ...


class EventService:
    """Everything about events and their ticket types. Implements `contract.EventContract`."""

    def __init__(
        self,
        pool: Pool,
        reservations: ReservationContract,
        users: UserContract,
        invalidation: Invalidation,
    ) -> None:
        self._pool = pool
        self._users = users
        self._invalidation = invalidation
        self._announcer = Announcer(pool, reservations)
        self._types = TicketTypes(pool, reservations, self._announcer)
        self._public = PublicEvents(self._read_public)
        invalidation.on(TOPIC, self._public.drop)

    # -- asking

    async def get(self, event_id: UUID, asker: Principal | None) -> Event:
        """One event. Raises Refusal `not_found`, also for a draft of somebody else."""
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.get_event(conn, id=event_id)
        if row is None:
            raise Refusal(Code.NOT_FOUND)
        if not is_public(row) and not await self._may_see_draft(row, asker):
            raise Refusal(Code.NOT_FOUND)
        return to_event(row)

    async def list(
        self, wanted: Wanted, asker: Principal | None, *, after: Place, limit: int
    ) -> tuple[list[Event], Place | None]:
        """A page of events, newest sale first, and where the next one begins.

        Raises Refusal `unauthenticated` for `organizer=me` without a member.
        """
        member = asker.member_id if asker is not None else None
        is_admin = member is not None and "admin" in await self._users.roles_of(member)
        async with self._pool.acquire(timeout=5) as conn:
            return await listing.page(
                conn, wanted, asker=member, is_admin=is_admin, after=after, limit=limit
            )

    async def organizer_of(self, event_id: UUID) -> UUID | None:
        """See `contract.EventContract.organizer_of`."""
        async with self._pool.acquire(timeout=5) as conn:
            found: UUID | None = await queries.organizer_of(conn, id=event_id)
        return found

    def cached_public(self, event_text: str) -> bytes | None:
        """The JSON of a published (or later cancelled) event if it is in memory and fresh.

        `event_text` is the id in canonical text: 36 lower-case characters.
        """
        return self._public.get(event_text)

    async def public(self, event_id: UUID) -> bytes:
        """As `cached_public`, read if need be. Raises Refusal `not_found`, also for drafts."""
        return await self._public.fetch(event_id)

    @property
    def cache_hits(self) -> int:
        """Look-ups of public events answered from memory."""
        return self._public.hits

    @property
    def cache_misses(self) -> int:
        """Look-ups of public events that went to the database."""
        return self._public.misses

    # -- changing

    async def create(
        self,
        asker: Principal,
        details: Details,
        ticket_types: Sequence[NewTicketType],
        key: IdempotencyKey | None,
    ) -> Answer:
        """A new draft as a 201 answer, or the kept one of this key.

        Raises Refusal `forbidden`, `invalid_request`, `idempotency_conflict`.
        """
        await require_role(self._users, asker, "organizer")
        given = msgspec.json.encode([details, ticket_types])

        async def insert() -> Answer:
            event_id = await _insert(conn, asker.member_id, details, ticket_types)
            row = await queries.get_event(conn, id=event_id)
            return Answer(201, msgspec.json.encode(to_event(row)))

        async with transaction(self._pool) as conn:
            return await once(
                conn,
                "events",
                f"member:{asker.member_id}:POST /v1/events",
                key,
                fingerprint_of(given),
                insert,
            )

    async def publish(self, asker: Principal, event_id: UUID) -> Event:
        """Put a draft on sale; returns when the sale side has opened it. Repeating is harmless.

        Raises Refusal `not_found`, `forbidden`, `invalid_state` (cancelled), `invalid_request`
        (its sale would be over).
        """
        await self._authorize(asker, event_id)
        async with transaction(self._pool) as conn:
            row = await queries.lock_event(conn, id=event_id)
            if row["status"] != "published":
                if not model.may_become(row["status"], "published"):
                    raise Refusal(Code.INVALID_STATE)
                now = utc_now()
                details = model.published(to_details(row), now)
                await queries.publish_event(
                    conn, id=event_id, sale_opens_at=details.sale_opens_at, now=now
                )
            row = await queries.get_event(conn, id=event_id)
        await self._told(event_id)
        return to_event(row)

    async def cancel(self, asker: Principal, event_id: UUID, reason: str) -> Event:
        """Call an event off and cancel its holds; repeating is harmless and keeps the reason.

        Raises Refusal `not_found`, `forbidden`.
        """
        await self._authorize(asker, event_id)
        async with transaction(self._pool) as conn:
            row = await queries.lock_event(conn, id=event_id)
            if row["status"] != "cancelled":
                await queries.cancel_event(conn, id=event_id, reason=reason, now=utc_now())
            row = await queries.get_event(conn, id=event_id)
        await self._told(event_id)
        return to_event(row)

    async def patch(self, asker: Principal, event_id: UUID, changes: Changes) -> Event:
        """Change what the organizer wrote.

        Raises Refusal `not_found`, `forbidden`, `invalid_state`, `invalid_request`.
        """
        await self._authorize(asker, event_id)
        async with transaction(self._pool) as conn:
            row = await queries.lock_event(conn, id=event_id)
            now = utc_now()
            details = model.changed(row["status"], to_details(row), changes, now)
            row = await queries.save_details(
                conn, id=event_id, now=now, **msgspec.structs.asdict(details)
            )
        await self._told(event_id)
        return to_event(row)

    async def patch_ticket_type(
        self, asker: Principal, event_id: UUID, ticket_type_id: UUID, changes: NumberChanges
    ) -> TicketType:
        """Change price, capacity or allowance, also while it sells.

        Raises Refusal `not_found`, `forbidden`, `invalid_state`, `capacity_below_committed`,
        `overloaded`.
        """
        await self._authorize(asker, event_id)
        try:
            return await self._types.change(event_id, ticket_type_id, changes)
        finally:
            await self._invalidation.publish(TOPIC, str(event_id))

    # -- keeping in order

    async def repair(self) -> int:
        """Finish what crashes left between this domain and the sale side; returns how much."""
        told = await self._announcer.repair()
        return told + await self._types.repair()

    async def housekeeping(self) -> int:
        """Delete kept answers older than `ANSWERS_KEPT_H`; returns how many."""
        deleted = 0
        while True:
            async with self._pool.acquire(timeout=5) as conn:
                count: int = await queries.delete_old_answers(
                    conn, hours=ANSWERS_KEPT_H, most=HOUSEKEEPING_BATCH
                )
            deleted += count
            if count < HOUSEKEEPING_BATCH:
                return deleted

    # -- inside

    async def _told(self, event_id: UUID) -> None:
        """After a commit: the caches at once, then the sale side."""
        await self._invalidation.publish(TOPIC, str(event_id))
        await self._announcer.tell(event_id)

    async def _authorize(self, asker: Principal, event_id: UUID) -> None:
        """Raises Refusal `not_found` unless it is theirs (or they are an admin).

        An organizer who lost that role may not change even their own: `forbidden`.
        """
        organizer = await self.organizer_of(event_id)
        roles = await self._users.roles_of(asker.member_id)
        if organizer is None or (organizer != asker.member_id and "admin" not in roles):
            raise Refusal(Code.NOT_FOUND)
        if not allowed(roles, ("organizer",)):
            raise Refusal(Code.FORBIDDEN)

    async def _may_see_draft(self, row: Any, asker: Principal | None) -> bool:
        if asker is None:
            return False
        if row["organizer_id"] == asker.member_id:
            return True
        return "admin" in await self._users.roles_of(asker.member_id)

    async def _read_public(self, event_id: UUID) -> bytes | None:
        async with self._pool.acquire(timeout=2) as conn:
            row = await queries.get_event(conn, id=event_id)
        if row is None or not is_public(row):
            return None
        return msgspec.json.encode(to_event(row))


async def _insert(
    conn: Connection, organizer_id: UUID, details: Details, types: Sequence[NewTicketType]
) -> UUID:
    """Write a new draft and its ticket types; returns its id. Raises Refusal `invalid_request`."""
    now = utc_now()
    drafted = model.drafted(details, now)
    event_id = new_id()
    await queries.insert_event(
        conn,
        id=event_id,
        organizer_id=organizer_id,
        now=now,
        **msgspec.structs.asdict(drafted),
    )
    await queries.insert_ticket_types(
        conn,
        event_id=event_id,
        ids=[new_id() for _ in types],
        names=[t.name for t in types],
        prices=[t.price for t in types],
        capacities=[t.capacity for t in types],
        limits=[t.max_per_member for t in types],
    )
    return event_id

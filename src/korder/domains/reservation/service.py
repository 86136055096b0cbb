"""Use cases of the reservation domain; the edges of its transactions.

The reserve path itself is `gate.py` (API side), `batch.py` and `worker.py`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from korder.domains.reservation import model
from korder.domains.reservation.batch import queries
from korder.domains.reservation.contract import (
    Availability,
    ReservationStatus,
    Sale,
    TicketTypeAvailability,
)
from korder.domains.reservation.record import (
    QUEUED_KEPT_S,
    REQUEST,
    Request,
    decided_key,
    queued_key,
    shard_of,
)
from korder.domains.reservation.release import cancel_of_event, end_holds
from korder.kernel.clock import rfc3339
from korder.kernel.errors import Code, Refusal
from korder.platform.coalesce import Coalesced
from korder.platform.postgres import Pool, transaction
from korder.platform.valkey import Client

#: Availability is read at most four times a second per event and process: well within the second
#: that the contract allows.
AVAILABILITY_FRESH_S = 0.25
AVAILABILITY_CACHED_MAX = 10_000
#: Bounds of a look-up by key. It is made for an answer that is a refusal already, so a PostgreSQL
#: that is stuck must not make it wait past the wait budget (the connection's bound counts twice:
#: giving one back that hangs takes as long).
KEY_CONNECTION_S, KEY_LOOK_UP_S = 1.0, 2.0
#: How long a change of a sale waits to be seen at the gate before it answers anyway.
GATE_WAIT_S = 2.0


class Reservation(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reservation as the contract shows it. `amount` is in the minor unit of `currency`."""

    id: UUID
    event_id: UUID
    ticket_type_id: UUID
    quantity: int
    status: ReservationStatus
    amount: int | None = None
    currency: str | None = None
    expires_at: str | None = None
    created_at: str | None = None
    reason: str | None = None
    member_id: UUID | None = None


class ReservationService:
    """Everything but the reserve path: asking, listing, cancelling, and the sale's own life.

    Implements `contract.ReservationContract`. `changed` tells the other processes that an event's
    cached data is old.
    """

    def __init__(self, pool: Pool, client: Client, changed: Callable[[UUID], Any]):
        self._pool = pool
        self._client = client
        self._changed = changed
        #: by event id as text: (monotonic time of reading, counts, their JSON)
        self._availability: dict[str, tuple[float, Availability | None, bytes | None]] = {}
        self._reading: dict[UUID, asyncio.Task[Availability | None]] = {}
        self._by_key = Coalesced(self._rows_by_key)
        self.cache_hits = 0
        self.cache_misses = 0

    # -- asking

    async def get(self, member_id: UUID, reservation_id: UUID) -> Reservation:
        """One of the member's reservations. Raises Refusal `not_found` for anyone else's."""
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.get_reservation(conn, id=reservation_id, member_id=member_id)
        if row is not None:
            return to_reservation(row)
        rid = reservation_id.bytes
        queued, decided = await self._client.mget(queued_key(rid), decided_key(rid))
        if queued is None or queued[:16] != member_id.bytes:
            raise Refusal(Code.NOT_FOUND)
        # It may have been decided between the two look-ups.
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.get_reservation(conn, id=reservation_id, member_id=member_id)
        if row is not None:
            return to_reservation(row)
        verdict = b"" if decided is None else decided[:1]
        if verdict == model.KEY_KNOWN:  # the key's own reservation is the answer to this one too
            row = await self.by_key(member_id.bytes, decided[1:])
            if row is not None:
                return await self.get(member_id, row["id"])
        reason = model.REASONS.get(verdict)
        return Reservation(
            id=reservation_id,
            event_id=UUID(bytes=queued[16:32]),
            ticket_type_id=UUID(bytes=queued[32:48]),
            quantity=int(queued[48:]),
            status="rejected" if reason else "queued",
            reason=reason.value if reason else None,
        )

    async def remember_queued(self, record: bytes, event_raw: bytes) -> None:
        """Make a 202 answerable on every API process until the worker has decided."""
        request = Request._make(REQUEST.unpack(record))
        value = request.member + event_raw + request.ticket_type + b"%d" % request.quantity
        await self._client.set(queued_key(request.id), value, ex=QUEUED_KEPT_S)

    async def by_key(self, member_raw: bytes, digest: bytes) -> Any:
        """The row that an older use of this key decided, or None; a crowd shares its queries."""
        return await self._by_key.get((member_raw, digest))

    async def _rows_by_key(self, wanted: list[tuple[bytes, bytes]]) -> dict[Any, Any]:
        async with (
            self._pool.acquire(timeout=KEY_CONNECTION_S) as conn,
            asyncio.timeout(KEY_LOOK_UP_S),
        ):
            rows = queries.get_by_keys(
                conn, members=[UUID(bytes=m) for m, _ in wanted], digests=[d for _, d in wanted]
            )
            return {(r["member_id"].bytes, r["idempotency_key"]): r async for r in rows}

    async def list_mine(
        self,
        member_id: UUID,
        *,
        event_id: UUID | None,
        status: str | None,
        before: UUID | None,
        limit: int,
    ) -> list[Reservation]:
        """The member's reservations, newest first, older than `before`."""
        async with self._pool.acquire(timeout=5) as conn:
            rows = queries.list_of_member(
                conn,
                member_id=member_id,
                event_id=event_id,
                status=status,
                before=before,
                most=limit,
            )
            return [to_reservation(row) async for row in rows]

    async def list_of_event(
        self, event_id: UUID, *, status: str | None, before: UUID | None, limit: int
    ) -> list[Reservation]:
        """An event's reservations, newest first; who may ask is the caller's business."""
        async with self._pool.acquire(timeout=5) as conn:
            rows = queries.list_of_event(
                conn, event_id=event_id, status=status, before=before, most=limit
            )
            return [to_reservation(row) async for row in rows]

    # -- changing

    async def cancel(self, member_id: UUID, reservation_id: UUID) -> Reservation:
        """Give a hold back; repeating it is harmless.

        Raises Refusal `not_found`, `reservation_expired`, or `invalid_state` when it is neither
        held nor cancelled.
        """
        async with transaction(self._pool) as conn:
            row = await queries.lock_reservation(conn, id=reservation_id, member_id=member_id)
            if row is not None and row["status"] != "cancelled":
                if row["status"] == "expired" or (row["status"] == "held" and row["overdue"]):
                    raise Refusal(Code.RESERVATION_EXPIRED)
                if not model.may_become(row["status"], "cancelled"):
                    raise Refusal(Code.INVALID_STATE)
                hold = {
                    "id": row["id"],
                    "member_id": member_id,
                    "ticket_type_id": row["ticket_type_id"],
                    "quantity": row["quantity"],
                }
                await end_holds(conn, [hold], "cancelled")
        reservation = await self.get(member_id, reservation_id)
        if reservation.status == "queued":
            raise Refusal(Code.INVALID_STATE)
        return reservation

    # -- the sale (contract.ReservationContract)

    async def put_sale(self, sale: Sale) -> None:
        """See `contract.ReservationContract.put_sale`."""
        types = sale.ticket_types
        async with transaction(self._pool) as conn:
            await queries.put_sale(
                conn,
                event_id=sale.event_id,
                organizer_id=sale.organizer_id,
                shard=shard_of(sale.event_id.bytes),
                version=sale.version,
                currency=sale.currency,
                hold_seconds=sale.hold_seconds,
                opens_at=sale.opens_at,
                closes_at=sale.closes_at,
                ids=[t.id for t in types],
                positions=list(range(len(types))),
                capacities=[t.capacity for t in types],
                prices=[t.price for t in types],
                limits=[t.max_per_member for t in types],
            )
            rows = queries.announce_types(conn, ticket_types=[t.id for t in types])
            told = [row["id"] async for row in rows]
        await self._settled(sale.event_id, told)

    async def change_ticket_type(
        self, ticket_type_id: UUID, *, capacity: int, price: int, max_per_member: int | None
    ) -> None:
        """See `contract.ReservationContract.change_ticket_type`."""
        async with transaction(self._pool) as conn:
            event_id = await queries.change_ticket_type(
                conn,
                ticket_type_id=ticket_type_id,
                capacity=capacity,
                price=price,
                max_per_member=max_per_member,
            )
            if event_id is None:
                exists = await queries.event_of_type(conn, ticket_type_id=ticket_type_id)
                raise Refusal(Code.CAPACITY_BELOW_COMMITTED if exists else Code.NOT_FOUND)
            rows = queries.announce_types(conn, ticket_types=[ticket_type_id])
            told = [row["id"] async for row in rows]
        await self._settled(event_id, told)

    async def cancel_sale(self, event_id: UUID) -> int:
        """See `contract.ReservationContract.cancel_sale`."""
        async with transaction(self._pool) as conn:
            rows = queries.close_sale(conn, event_id=event_id)
            types = [row["ticket_type_id"] async for row in rows]
            rows = queries.announce_types(conn, ticket_types=types)
            told = [row["id"] async for row in rows]
        # From here on every batch sees the closed sale, so no hold can be missed below.
        cancelled = 0
        while True:
            async with self._pool.acquire(timeout=5) as conn:
                ended = await cancel_of_event(conn, event_id)
            cancelled += ended
            if ended == 0:
                break
        await self._settled(event_id, told)
        return cancelled

    def availability_cached(self, event_text: str) -> bytes | None:
        """The counts as JSON from this process's memory, if they are fresh."""
        cached = self._availability.get(event_text)
        if cached is None or time.monotonic() - cached[0] >= AVAILABILITY_FRESH_S:
            return None
        self.cache_hits += 1
        return cached[2]

    async def availability_json(self, event_id: UUID) -> bytes | None:
        """The counts as JSON, at most one second old; None when the sale was never opened."""
        found = await self.availability(event_id)
        cached = self._availability.get(str(event_id))
        if cached is not None and cached[1] is found:
            return cached[2]
        return None if found is None else msgspec.json.encode(found)

    async def availability(self, event_id: UUID) -> Availability | None:
        """See `contract.ReservationContract.availability`."""
        cached = self._availability.get(str(event_id))
        if cached is not None and time.monotonic() - cached[0] < AVAILABILITY_FRESH_S:
            self.cache_hits += 1
            return cached[1]
        self.cache_misses += 1
        task = self._reading.get(event_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read_availability(event_id))
            self._reading[event_id] = task
            task.add_done_callback(lambda _: self._reading.pop(event_id, None))
        return await asyncio.shield(task)

    def forget_availability(self, event_text: str) -> None:
        """Drop the cached counts of an event, or of all (`*`)."""
        if event_text == "*":
            self._availability.clear()
        else:
            self._availability.pop(event_text, None)

    async def _read_availability(self, event_id: UUID) -> Availability | None:
        # The age counts from before the query, so that the answer is never older than it says.
        began = time.monotonic()
        async with self._pool.acquire(timeout=2) as conn:
            rows = [row async for row in queries.availability(conn, event_id=event_id)]
        found = None
        if rows:
            found = Availability(
                event_id=event_id,
                as_of=rows[0]["as_of"],
                sold_out=all(row["available"] <= 0 for row in rows),
                ticket_types=tuple(
                    TicketTypeAvailability(
                        id=row["id"],
                        capacity=row["capacity"],
                        held=row["held"],
                        sold=row["sold"],
                        available=row["available"],
                    )
                    for row in rows
                ),
            )
        while len(self._availability) >= AVAILABILITY_CACHED_MAX:
            self._availability.pop(next(iter(self._availability)))
        encoded = None if found is None else msgspec.json.encode(found)
        self._availability[str(event_id)] = (began, found, encoded)
        return found

    async def _settled(self, event_id: UUID, told: Sequence[int]) -> None:
        """Tell the caches, and wait (bounded) until the relay has told the gate."""
        await self._changed(event_id)
        deadline = time.monotonic() + GATE_WAIT_S
        while time.monotonic() < deadline:
            async with self._pool.acquire(timeout=5) as conn:
                if not await queries.outbox_waiting(conn, ids=list(told)):
                    return
            await asyncio.sleep(0.02)


def to_reservation(row: Any) -> Reservation:
    """A row of the reservation queries as the contract shows it."""
    return Reservation(
        id=row["id"],
        event_id=row["event_id"],
        ticket_type_id=row["ticket_type_id"],
        quantity=row["quantity"],
        status=row["status"],
        amount=row["amount"],
        currency=row["currency"],
        expires_at=rfc3339(row["expires_at"]),
        created_at=rfc3339(row["created_at"]),
        reason=row["reason"],
        member_id=row.get("member_id"),
    )

"""Changing what a ticket type sells, while it sells.

Only the sale side knows what is held and sold, so it decides. The intent is committed here first;
the sale side is asked; its answer makes the intent true or drops it. One intent at a time per
ticket type: the sale side keeps no versions of these numbers, so two that overtake each other
could leave the two sides with different ones.
"""

import asyncio
import time
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from korder.domains.event.announce import REPAIR_BATCH, Announcer, queries, repaired
from korder.domains.event.model import NumberChanges, Numbers, merged
from korder.domains.event.views import TicketType, to_numbers, to_ticket_type
from korder.domains.reservation.contract import ReservationContract
from korder.kernel.errors import Code, Refusal, overloaded
from korder.kernel.ids import new_id
from korder.platform.postgres import Pool, transaction

#: How long a change waits for the one before it; that one takes at most about two seconds.
WAIT_S = 5.0
_POLL_S = 0.05
#: An intent this old belongs to somebody who died: whoever wants to go on finishes it.
ABANDONED_S = 2.5


class Intent(msgspec.Struct, frozen=True):
    """What the sale side is to be asked for."""

    id: UUID
    event_id: UUID
    ticket_type_id: UUID
    numbers: Numbers


class TicketTypes:
    """Drives intents to their end, its own and those that a crash left behind."""

    def __init__(self, pool: Pool, reservations: ReservationContract, announcer: Announcer) -> None:
        self._pool = pool
        self._reservations = reservations
        self._announcer = announcer

    async def change(
        self, event_id: UUID, ticket_type_id: UUID, changes: NumberChanges
    ) -> TicketType:
        """Change one ticket type; returns it as the sale side now has it.

        Raises Refusal `not_found`, `invalid_state` (cancelled event), `capacity_below_committed`,
        `overloaded` when earlier changes of it do not come to an end.
        """
        deadline = time.monotonic() + WAIT_S
        while True:
            begun = await self._begin(event_id, ticket_type_id, changes)
            if isinstance(begun, TicketType):
                return begun
            mine, intent = begun
            if mine:
                return await self._finish(intent)
            if intent is not None:
                await self._finish_abandoned(intent)
            elif time.monotonic() >= deadline:
                raise overloaded()
            else:
                await asyncio.sleep(_POLL_S)

    async def repair(self) -> int:
        """Finish what a crash left open for two seconds; returns how many it finished."""
        async with self._pool.acquire(timeout=5) as conn:
            rows = queries.claim_intents(conn, most=REPAIR_BATCH)
            intents = [_intent(row) async for row in rows]
        mended = 0
        for intent in intents:
            mended += await repaired(
                "ticket_type", intent.ticket_type_id, partial(self._finish_abandoned, intent)
            )
        return mended

    async def _begin(
        self, event_id: UUID, ticket_type_id: UUID, changes: NumberChanges
    ) -> "TicketType | tuple[bool, Any]":
        """A draft's change is done at once; else (True, my intent), or (False, what is in its way).

        What is in the way is given only when it was abandoned, else None.
        """
        async with transaction(self._pool) as conn:
            event = await queries.lock_event(conn, id=event_id)
            row = await queries.lock_ticket_type(conn, id=ticket_type_id, event_id=event_id)
            if event is None or row is None:
                raise Refusal(Code.NOT_FOUND)
            if event["status"] == "cancelled":
                raise Refusal(Code.INVALID_STATE)
            if row["pending_id"] is not None:
                return False, _intent(row) if row["pending_age_s"] > ABANDONED_S else None
            numbers = merged(to_numbers(row), changes)
            if event["status"] == "draft":
                values = msgspec.structs.asdict(numbers)
                return to_ticket_type(await queries.save_numbers(conn, id=ticket_type_id, **values))
            intent = Intent(new_id(), event_id, ticket_type_id, numbers)
            await queries.save_intent(
                conn,
                id=ticket_type_id,
                pending_id=intent.id,
                numbers=msgspec.json.encode(numbers).decode(),
            )
            return True, intent

    async def _finish(self, intent: Intent) -> TicketType:
        """Ask the sale side and write its answer down."""
        await self._announcer.tell(intent.event_id)  # a sale that never opened cannot be changed
        numbers = msgspec.structs.asdict(intent.numbers)
        try:
            await self._reservations.change_ticket_type(intent.ticket_type_id, **numbers)
        except Refusal as refusal:
            if refusal.code is Code.CAPACITY_BELOW_COMMITTED:
                async with self._pool.acquire(timeout=5) as conn:
                    await queries.drop_intent(conn, id=intent.ticket_type_id, pending_id=intent.id)
            raise
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.apply_intent(
                conn, id=intent.ticket_type_id, pending_id=intent.id, **numbers
            )
            if row is None:
                row = await queries.get_ticket_type(conn, id=intent.ticket_type_id)
        if row["pending_id"] is None and to_numbers(row) == intent.numbers:
            return to_ticket_type(row)
        # We were taken for dead, and another change went past us: our late question may have put
        # our numbers over its. Asking once more for what is written here settles it.
        return await self.change(intent.event_id, intent.ticket_type_id, NumberChanges())

    async def _finish_abandoned(self, intent: Intent) -> None:
        """As `_finish`; there is nobody left to hear of a refusal."""
        try:
            await self._finish(intent)
        except Refusal as refusal:
            if refusal.code is not Code.CAPACITY_BELOW_COMMITTED:
                raise


def _intent(row: Any) -> Intent:
    numbers = msgspec.json.decode(row["pending_numbers"], type=Numbers)
    return Intent(row["pending_id"], row["event_id"], row["id"], numbers)

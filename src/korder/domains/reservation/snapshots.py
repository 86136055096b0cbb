"""What the API knows of each sale without asking anybody: windows, ids, shard.

Entries older than a second are refreshed in the background while they go on serving, so the
reserve path never waits for PostgreSQL; a change in this or another process drops them at once
(`korder.platform.invalidation`). The worker decides again with the locked row anyway.
"""

import asyncio
import time
from hashlib import sha256
from uuid import UUID

from korder.domains.reservation.batch import queries
from korder.kernel.clock import to_micros
from korder.platform.postgres import UNAVAILABLE, Pool

FRESH_S = 1.0
#: How long "sold out" is believed without asking the gate again: tickets that come back are
#: promised within a second.
SOLD_OUT_FRESH_S = 0.1
#: Bounds of the two tables; past them the oldest entries go.
TYPES_MAX = 100_000
UNKNOWN_MAX = 20_000


class SaleSnapshot:
    """One ticket type on sale. Instants in seconds since the epoch."""

    __slots__ = (
        "_fingerprints",
        "cancelled",
        "closes_s",
        "currency",
        "event_ascii",
        "event_raw",
        "event_text",
        "loaded_at",
        "opens_s",
        "shard",
        "sold_out_quantity",
        "sold_out_until",
        "type_ascii",
        "type_raw",
        "type_text",
    )

    def __init__(
        self,
        *,
        type_id: UUID,
        event_id: UUID,
        shard: int,
        currency: str,
        opens_us: int,
        closes_us: int,
        cancelled: bool,
    ) -> None:
        self.type_raw = type_id.bytes
        self.type_text = str(type_id)
        self.event_raw = event_id.bytes
        self.event_text = str(event_id)
        self.event_ascii = self.event_text.encode()
        self.type_ascii = self.type_text.encode()
        self._fingerprints: dict[int, bytes] = {}
        self.sold_out_until = 0.0
        self.sold_out_quantity = 0
        self.shard = shard
        self.currency = currency.encode()
        self.opens_s = opens_us / 1e6
        self.closes_s = closes_us / 1e6
        self.cancelled = cancelled
        self.loaded_at = time.monotonic()

    def remember_sold_out(self, quantity: int) -> None:
        """The gate had fewer than this a moment ago, which is answer enough for a keyless crowd.

        (Who sends a key may have been answered otherwise before, which only the gate knows.)
        """
        now_s = time.time()
        if now_s >= self.sold_out_until:
            self.sold_out_quantity = quantity
            self.sold_out_until = now_s + SOLD_OUT_FRESH_S
        else:
            self.sold_out_quantity = min(quantity, self.sold_out_quantity)

    def fingerprint(self, quantity: int) -> bytes:
        """8 bytes that tell what is asked for: this ticket type, this many."""
        found = self._fingerprints.get(quantity)
        if found is None:
            content = b"%b%b%d" % (self.event_raw, self.type_raw, quantity)
            found = self._fingerprints[quantity] = sha256(content).digest()[:8]
        return found


class Snapshots:
    """Snapshots of this process by the text of the ticket type id."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._types: dict[str, SaleSnapshot] = {}
        self._unknown: dict[str, float] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}

    def get(self, type_text: str) -> SaleSnapshot | None:
        """The snapshot if there is one; a stale one is returned and refreshed behind."""
        found = self._types.get(type_text)
        if found is not None and time.monotonic() - found.loaded_at > FRESH_S:
            self._refresh(type_text)
        return found

    async def load(self, type_text: str) -> SaleSnapshot | None:
        """Look a ticket type up in PostgreSQL, once for all who ask now. None: not on sale."""
        missed_at = self._unknown.get(type_text)
        if missed_at is not None and time.monotonic() - missed_at < FRESH_S:
            return None
        await asyncio.shield(self._refresh(type_text))
        return self._types.get(type_text)

    def drop(self, event_text: str) -> None:
        """Forget an event's types (`*`: all) and the recent misses, which it may have been."""
        self._unknown.clear()
        if event_text == "*":
            stale = list(self._types.values())
        else:
            stale = [s for s in self._types.values() if s.event_text == event_text]
        for snapshot in stale:
            del self._types[snapshot.type_text]

    def _refresh(self, type_text: str) -> "asyncio.Task[None]":
        task = self._loading.get(type_text)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(type_text))
            self._loading[type_text] = task
            task.add_done_callback(lambda _: self._loading.pop(type_text, None))
        return task

    async def _load(self, type_text: str) -> None:
        known = self._types.get(type_text)
        try:
            async with self._pool.acquire(timeout=2) as conn:
                rows = [
                    row async for row in queries.sale_of_type(conn, ticket_type_id=UUID(type_text))
                ]
        except UNAVAILABLE:
            if known is None:
                raise
            known.loaded_at = time.monotonic()  # go on with what we know; ask again in a second
            return
        if not rows:
            self._types.pop(type_text, None)
            while len(self._unknown) >= UNKNOWN_MAX:
                self._unknown.pop(next(iter(self._unknown)))
            self._unknown[type_text] = time.monotonic()
            return
        for row in rows:
            snapshot = SaleSnapshot(
                type_id=row["ticket_type_id"],
                event_id=row["event_id"],
                shard=row["shard"],
                currency=row["currency"],
                opens_us=to_micros(row["opens_at"]),
                closes_us=to_micros(row["closes_at"]),
                cancelled=row["cancelled"],
            )
            while len(self._types) >= TYPES_MAX:
                self._types.pop(next(iter(self._types)))
            self._types[snapshot.type_text] = snapshot

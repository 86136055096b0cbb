"""Invariants 5 and 6 at the gate: nothing is stuck in it, and it has exactly what is left.

The gate follows PostgreSQL by settlement, relay and reconcile, a moment later. So each question
is asked again until its answer is good once, for at most `PATIENCE_S`; only what was off in every
look is a finding. That holds under load too: what counts as stuck is what was there at the first
look and is still there at the last.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from korder.domains.reservation.gate_allowances import check_allowances
from korder.domains.reservation.invariants import EXAMPLES_MAX, queries
from korder.domains.reservation.record import GROUP, KEYS, REQUEST, SHARDS, Request
from korder.kernel.audit import Finding
from korder.platform.postgres import Connection
from korder.platform.valkey import Client

#: A little more than the default reconcile interval, after which a drift must be gone.
PATIENCE_S = 4.0
LOOK_S = 0.1


async def check_gate(
    conn: Connection, client: Client, *, patience_s: float = PATIENCE_S
) -> list[Finding]:
    """Compare Valkey with PostgreSQL while a worker runs. `conn` is outside a transaction.

    Raises one of `valkey.UNAVAILABLE` or `postgres.UNAVAILABLE` when one is not there.
    """
    looks = _Looks(conn, client)
    deadline = time.monotonic() + patience_s
    await looks.first()
    while not await looks.again() and time.monotonic() < deadline:  # noqa: ASYNC110 - no event
        await asyncio.sleep(LOOK_S)
    return [*await looks.findings(), await check_allowances(conn, client, patience_s=patience_s)]


class _Load(NamedTuple):
    """One shard of the gate at one moment; quantities by ticket type are in tickets."""

    loaded: bool
    pending: int
    requests: int
    oldest: tuple[int, int] | None
    stock: Mapping[UUID, int | None]
    waiting: Mapping[UUID, int]


class _Looks:
    """What has still not been seen in order. Every look removes what it finds good."""

    def __init__(self, conn: Connection, client: Client) -> None:
        self._conn = conn
        self._client = client
        #: Ticket types still to be compared, those found off by the last comparable look, all.
        self._open: set[UUID] = set()
        self._off: dict[UUID, str] = {}
        self._good: set[UUID] = set()
        self._newest_entry: dict[int, tuple[int, int]] = {}
        self._stuck: dict[int, str] = {}
        self._newest_row: int | None = None
        self._untold = 0

    async def first(self) -> None:
        """Remember what is on its way now; it must be gone before the patience is."""
        row = await queries.outbox_ends(self._conn)
        self._newest_row, self._untold = row["newest"], row["rows"]
        for shard in range(SHARDS):
            last = await self._client.xrevrange(KEYS[shard].stream, count=1)
            if last:
                self._newest_entry[shard] = _entry_id(last[0][0])
            self._stuck[shard] = "not looked at"

    async def again(self) -> bool:
        """One look; True when everything has been good once."""
        if self._newest_row is not None:
            row = await queries.outbox_ends(self._conn)
            if row["oldest"] is None or row["oldest"] > self._newest_row:
                self._newest_row = None
        # Shards one by one, so that little time passes between the two sides of a comparison.
        for shard in range(SHARDS):
            before = await self._expected(shard)
            if shard not in self._stuck and self._good.issuperset(before):
                continue
            load = await self._load(shard, before)
            after = await self._expected(shard)
            self._judge_queue(shard, load)
            self._judge_stock(before, after, load)
        return not (self._open or self._stuck or self._newest_row is not None)

    async def _expected(self, shard: int) -> dict[UUID, int]:
        rows = queries.expected_stock(self._conn, shard=shard)
        return {row["ticket_type_id"]: row["available"] async for row in rows}

    async def _load(self, shard: int, types: Mapping[UUID, int]) -> _Load:
        """One shard of the gate, read at one moment."""
        keys = KEYS[shard]
        pipe = self._client.pipeline(transaction=True)
        pipe.hmget(keys.meta, [b"generation", b"pending"])
        pipe.xrange(keys.stream)
        pipe.hmget(keys.stock, [t.bytes for t in types] or [b""])
        (generation, pending), entries, stock = await pipe.execute()
        waiting: Counter[UUID] = Counter()
        requests = 0
        for _, fields in entries:
            for raw in REQUEST.iter_unpack(fields[b"b"]):
                request = Request._make(raw)
                waiting[UUID(bytes=request.ticket_type)] += request.quantity
                requests += 1
        counts = [None if raw is None else int(raw) for raw in stock]
        return _Load(
            loaded=generation is not None,
            pending=int(pending or 0),
            requests=requests,
            oldest=_entry_id(entries[0][0]) if entries else None,
            stock=dict(zip(types, counts, strict=False)),
            waiting=waiting,
        )

    def _judge_queue(self, shard: int, load: _Load) -> None:
        if shard not in self._stuck:
            return
        newest_then = self._newest_entry.get(shard)
        if not load.loaded:
            self._stuck[shard] = f"shard {shard}: the gate is not loaded"
        elif load.oldest and newest_then and load.oldest <= newest_then:
            self._stuck[shard] = f"shard {shard}: {load.requests} requests undecided"
        elif load.pending != load.requests:
            self._stuck[shard] = (
                f"shard {shard}: counts {load.pending} undecided requests, has {load.requests}"
            )
        else:
            del self._stuck[shard]

    def _judge_stock(
        self, before: Mapping[UUID, int], after: Mapping[UUID, int], load: _Load
    ) -> None:
        for ticket_type, available in before.items():
            if ticket_type in self._good:
                continue
            self._open.add(ticket_type)
            has = load.stock.get(ticket_type)
            right = available - load.waiting.get(ticket_type, 0)
            if has == right:
                self._good.add(ticket_type)
                self._open.discard(ticket_type)
                self._off.pop(ticket_type, None)
            elif after.get(ticket_type) == available:
                text = "is not loaded" if has is None else f"has {has}"
                self._off[ticket_type] = f"ticket type {ticket_type}: gate {text}, right is {right}"
            else:
                # It sold between the two readings: not comparable, look again.
                self._off.pop(ticket_type, None)

    async def findings(self) -> list[Finding]:
        """The findings after the last look."""
        dead = []
        for shard in range(SHARDS):
            count = await self._client.xlen(KEYS[shard].dead)
            dead += [f"shard {shard}: {count} dead letters"] if count else []
            unacknowledged = await self._unacknowledged(shard)
            if unacknowledged:
                self._stuck.setdefault(shard, f"shard {shard}: {unacknowledged}")
        untold = self._untold if self._newest_row is not None else 0
        told = [f"{untold} releases not told to the gate"] if untold else []
        return [
            _finding(5, "nothing stays queued", SHARDS, list(self._stuck.values())),
            _finding(5, "no dead letters", SHARDS, dead),
            _finding(6, "every release reaches the gate", self._untold, told),
            _finding(
                6,
                "the gate has exactly what is left",
                len(self._good | self._off.keys()),
                list(self._off.values()),
            ),
        ]

    async def _unacknowledged(self, shard: int) -> str:
        """Deliveries without an entry: they could never be settled."""
        try:
            pending = await self._client.xpending(KEYS[shard].stream, GROUP)
        except Exception as error:
            if "NOGROUP" in str(error):
                return "the consumer group is missing"
            raise
        newest_then = self._newest_entry.get(shard)
        if not pending["pending"] or newest_then is None:
            return ""
        oldest = _entry_id(pending["min"])
        return f"{pending['pending']} deliveries unsettled" if oldest <= newest_then else ""


def _entry_id(raw: bytes) -> tuple[int, int]:
    """A stream id `ms-n` in its order."""
    ms, _, number = raw.partition(b"-")
    return int(ms), int(number)


def _finding(number: int, name: str, checked: int, examples: list[str]) -> Finding:
    return Finding(number, name, checked, len(examples), tuple(examples[:EXAMPLES_MAX]))

"""Helpers of the reservation tests: records, a path that is walked step by step, an auditor.

The auditor knows nothing of `invariants.py`: it recomputes from the rows what must be, so that a
mistake in the project's own audit cannot hide one in the code.
"""

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from korder.domains.reservation.batch import Verdict, decide_batch
from korder.domains.reservation.gatekeeper import Entry, Gatekeeper
from korder.domains.reservation.leases import Leases
from korder.domains.reservation.record import (
    HAS_KEY,
    IDEMPOTENCY_PERIOD_S,
    KEYS,
    KEYS_REMEMBERED_MAX,
    NO_DIGEST,
    REQUEST,
    SHARDS,
    Request,
)
from korder.kernel.ids import new_id_bytes
from korder.platform.postgres import Pool
from korder.platform.valkey import Client

Conn = "asyncpg.Connection[asyncpg.Record]"

#: How long anything may take to become true before a test gives up on it.
PATIENCE_S = 10.0


async def eventually(
    what: Callable[[], Awaitable[Any]], *, within_s: float = PATIENCE_S, every_s: float = 0.02
) -> Any:
    """Poll until `what()` is truthy and return it; AssertionError past the deadline."""
    deadline = time.monotonic() + within_s
    while True:
        found = await what()
        if found:
            return found
        assert time.monotonic() < deadline, f"did not become true within {within_s} s"
        await asyncio.sleep(every_s)


def digest_of(member: bytes, key: str) -> bytes:
    """16 bytes that stand for a member's Idempotency-Key."""
    return hashlib.sha256(member + key.encode()).digest()[:16]


def fingerprint_of(ticket_type: bytes, quantity: int) -> bytes:
    """8 bytes that stand for a request's body."""
    return hashlib.sha256(ticket_type + b"%d" % quantity).digest()[:8]


def request_of(
    ticket_type: bytes,
    member: bytes | None = None,
    quantity: int = 1,
    key: str | None = None,
    *,
    rid: bytes | None = None,
) -> Request:
    """One request as the API would send it to the gate."""
    member = member or new_id_bytes()
    return Request(
        rid or new_id_bytes(),
        member,
        ticket_type,
        digest_of(member, key) if key is not None else NO_DIGEST,
        fingerprint_of(ticket_type, quantity),
        quantity,
        HAS_KEY if key is not None else 0,
    )


class Decided(NamedTuple):
    """One entry with its requests and their verdicts, in order."""

    entry: Entry
    requests: Sequence[Request]
    verdicts: Sequence[Verdict]


class Steps:
    """The reserve path by hand: nothing runs in the background, a test may stop anywhere."""

    def __init__(self, conn: Any, client: Client, name: str = "steps") -> None:
        self.conn = conn
        self.client = client
        self.keeper = Gatekeeper(client)
        self.leases = Leases(name, 60_000)
        self.shards = list(range(SHARDS))

    async def open(self) -> None:
        """Take every free shard and load its gate."""
        await self.leases.maintain(self.conn)
        for shard in sorted(self.leases.held):
            await self.keeper.rebuild(self.conn, shard)

    async def admit(self, shard: int, *requests: Request, queue_max: int = 20_000) -> list[Any]:
        """Put a micro-batch before the gate; the raw reply `[generation, codes, known...]`."""
        keys = KEYS[shard]
        period = int(time.time()) // IDEMPOTENCY_PERIOD_S
        idempotency = [keys.idempotency(period), keys.idempotency(period - 1)]
        reply: list[Any] = await self.keeper._functions.call(
            "korder_reserve",
            [keys.meta, keys.stock, keys.limit, keys.allowance, *idempotency, keys.stream],
            b"".join(REQUEST.pack(*r) for r in requests),
            b"steps",
            queue_max,
            2 * IDEMPOTENCY_PERIOD_S,
            KEYS_REMEMBERED_MAX,
        )
        return reply

    async def read(self) -> list[Entry]:
        """New entries of the shards held (waiting 1 ms at most)."""
        return await self.keeper.read(self.shards, block_ms=1)

    async def pending(self) -> list[Entry]:
        """Entries read and not acknowledged."""
        return await self.keeper.read_pending(self.shards)

    async def decide(self, entries: Sequence[Entry]) -> list[Decided]:
        """One transaction for all the entries; nothing is settled."""
        parts = [requests_in(entry) for entry in entries]
        fences = {entry.shard: self.leases.held.get(entry.shard, -1) for entry in entries}
        verdicts = await decide_batch(
            self.conn,
            [r for part in parts for r in part],
            fences,
            redelivered=any(entry.again for entry in entries),
        )
        decided, at = [], 0
        for entry, part in zip(entries, parts, strict=True):
            decided.append(Decided(entry, part, verdicts[at : at + len(part)]))
            at += len(part)
        return decided

    async def settle(self, decided: Sequence[Decided]) -> None:
        """Acknowledge and answer."""
        await self.keeper.settle(decided)

    async def work(self) -> list[Decided]:
        """Read, decide and settle what is new."""
        decided = await self.decide(await self.read())
        await self.settle(decided)
        return decided

    async def stock(self, shard: int, ticket_type: bytes) -> int:
        """What the gate believes is left."""
        return int(await self.client.hget(KEYS[shard].stock, ticket_type) or 0)

    async def allowance(self, shard: int, member: bytes, ticket_type: bytes) -> int:
        """What the gate believes the member has."""
        return int(await self.client.hget(KEYS[shard].allowance, member + ticket_type) or 0)


def requests_in(entry: Entry) -> list[Request]:
    """The requests of a stream entry."""
    return [Request._make(fields) for fields in REQUEST.iter_unpack(entry.blob)]


async def forget_keys(client: Client) -> None:
    """Drop every idempotency hash of the gate, as time does after a day or two."""
    for keys in KEYS:
        async for name in client.scan_iter(match=keys.tag + b":idem:*"):
            await client.delete(name)


# -- the auditor


async def broken_rules(pool: Pool) -> list[str]:
    """What in PostgreSQL contradicts itself; empty when all is well."""
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read"):
        inventory = await conn.fetch("SELECT * FROM reservations.inventory")
        rows = await conn.fetch("SELECT * FROM reservations.reservations")
    return [*_wrong_counts(inventory, rows), *_over_limit(inventory, rows), *_key_twice(rows)]


def _wrong_counts(inventory: Iterable[Any], rows: Iterable[Any]) -> list[str]:
    held: Counter[Any] = Counter()
    sold: Counter[Any] = Counter()
    for row in rows:
        if row["status"] in ("held", "confirmed"):
            (held if row["status"] == "held" else sold)[row["ticket_type_id"]] += row["quantity"]
    wrong = []
    for row in inventory:
        key = row["ticket_type_id"]
        if (row["held"], row["sold"]) != (held[key], sold[key]):
            wrong.append(f"{key}: says {row['held']}+{row['sold']}, rows {held[key]}+{sold[key]}")
        if held[key] + sold[key] > row["capacity"]:
            wrong.append(f"{key}: oversold {held[key] + sold[key]} of {row['capacity']}")
    return wrong


def _over_limit(inventory: Iterable[Any], rows: Iterable[Any]) -> list[str]:
    ceiling = {row["ticket_type_id"]: row["limit_ceiling"] for row in inventory}
    live: Counter[Any] = Counter()
    for row in rows:
        if row["status"] in ("held", "confirmed"):
            live[row["member_id"], row["ticket_type_id"]] += row["quantity"]
    return [
        f"member {member} has {count} of {key}"
        for (member, key), count in live.items()
        if ceiling.get(key) is not None and count > ceiling[key]
    ]


def _key_twice(rows: Iterable[Any]) -> list[str]:
    uses = Counter(
        (row["member_id"], row["idempotency_key"]) for row in rows if row["idempotency_key"]
    )
    return [f"member {key[0]} used a key {count} times" for key, count in uses.items() if count > 1]


async def gate_drift(pool: Pool, client: Client) -> list[str]:
    """Where the gate of a quiet system differs from PostgreSQL to anyone's loss.

    Stock must be exact. An allowance may be too low (PostgreSQL refuses then), never too high.
    """
    async with pool.acquire() as conn:
        if await conn.fetchval("SELECT count(*) FROM reservations.outbox"):
            return ["the outbox is not empty"]
        inventory = await conn.fetch("SELECT * FROM reservations.inventory")
        live = await conn.fetch(
            "SELECT member_id, ticket_type_id, sum(quantity)::int AS quantity"
            " FROM reservations.reservations WHERE status IN ('held', 'confirmed') GROUP BY 1, 2"
        )
    had = {row["member_id"].bytes + row["ticket_type_id"].bytes: row["quantity"] for row in live}
    by_shard = defaultdict(list)
    for row in inventory:
        by_shard[row["shard"]].append(row)
    drift = []
    for shard, types in by_shard.items():
        keys = KEYS[shard]
        meta = await client.hgetall(keys.meta)
        if int(meta.get(b"pending", 0)) or await client.xlen(keys.stream):
            drift.append(f"shard {shard} is not quiet")
        stock = await client.hgetall(keys.stock)
        for row in types:
            left = 0 if row["cancelled_at"] else row["capacity"] - row["held"] - row["sold"]
            if stock.get(row["ticket_type_id"].bytes) != b"%d" % left:
                told = stock.get(row["ticket_type_id"].bytes)
                drift.append(f"{row['ticket_type_id']}: gate says {told!r}, left are {left}")
        for holder, count in (await client.hgetall(keys.allowance)).items():
            if int(count) > had.get(holder, 0):
                drift.append(f"{holder.hex()}: allowance {int(count)}, has {had.get(holder, 0)}")
    return drift

"""The worker's side of the gate: read, settle, relay, reconcile, rebuild."""

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import asyncpg
from redis.exceptions import ResponseError

from korder.domains.reservation import model
from korder.domains.reservation.batch import Verdict, queries
from korder.domains.reservation.record import (
    CONSUMER,
    CREDIT,
    GROUP,
    HAS_KEY,
    IDEMPOTENCY_PERIOD_S,
    KEPT_HELD,
    KEPT_PENDING,
    KEYS,
    QUEUED_KEPT_S,
    REQUEST,
    VERDICT,
    Request,
    decided_key,
)
from korder.platform.valkey import Client, Functions

#: Entries per stream and read; an entry carries up to `batch_max` requests.
READ_ENTRIES = 64
#: Most outbox rows relayed at a time, and most allowance counters written at a time.
RELAY_BATCH = 2000
ALLOWANCE_BATCH = 2000
#: Dead letters kept per shard (approximately).
DEAD_KEPT = 10_000

Conn: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Entry(NamedTuple):
    """One stream entry: a micro-batch of accepted requests of one API process."""

    shard: int
    id: bytes
    blob: bytes
    address: bytes
    #: True when it may have been processed before.
    again: bool


class Gatekeeper:
    """Everything the worker says to Valkey. Raises `valkey.UNAVAILABLE` when it is not there."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._functions = Functions(client, "korder", Path(__file__).with_name("lua"))

    # -- streams

    async def prepare(self, shards: Sequence[int]) -> None:
        """Functions loaded, streams and groups there (a group starts at 0, not at `$`)."""
        await self._functions.load()
        for shard in shards:
            try:
                await self._client.xgroup_create(KEYS[shard].stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def read(self, shards: Sequence[int], *, block_ms: int) -> list[Entry]:
        """New entries of these shards, waiting up to `block_ms` for the first."""
        streams = {KEYS[shard].stream: ">" for shard in shards}
        reply = await self._client.xreadgroup(
            GROUP, CONSUMER, streams, count=READ_ENTRIES, block=block_ms
        )
        return _entries(reply, shards, again=False)

    async def read_pending(self, shards: Sequence[int]) -> list[Entry]:
        """Entries that were read and not acknowledged, by this worker or by one before it."""
        streams = {KEYS[shard].stream: "0" for shard in shards}
        reply = await self._client.xreadgroup(GROUP, CONSUMER, streams, count=READ_ENTRIES)
        return _entries(reply, shards, again=True)

    async def bury(self, entry: Entry) -> None:
        """Keep an entry that cannot be processed, with its origin, for a person to look at."""
        await self._client.xadd(
            KEYS[entry.shard].dead,
            {b"id": entry.id, b"b": entry.blob, b"a": entry.address},
            maxlen=DEAD_KEPT,
            approximate=True,
        )

    async def backlog(self, shards: Sequence[int]) -> int:
        """Requests accepted and not settled."""
        pipe = self._client.pipeline(transaction=False)
        for shard in shards:
            pipe.hget(KEYS[shard].meta, "pending")
        return sum(int(value or 0) for value in await pipe.execute())

    # -- settling

    async def settle(
        self, entries: Sequence[tuple[Entry, Sequence[Request], Sequence[Verdict]]]
    ) -> None:
        """Acknowledge, give back what was refused, remember keys, answer the API processes.

        What leaves no row is told first: an entry that is acknowledged never comes again.
        """
        await self._tell_rowless(entries)
        by_shard: dict[int, list[tuple[Entry, Sequence[Request], Sequence[Verdict]]]]
        by_shard = defaultdict(list)
        for item in entries:
            by_shard[item[0].shard].append(item)
        for shard, items in by_shard.items():
            await self._settle_shard(shard, items)

    async def _tell_rowless(
        self, entries: Sequence[tuple[Entry, Sequence[Request], Sequence[Verdict]]]
    ) -> None:
        """Who was told 202 asks by id, and these few verdicts leave no row of that id."""
        rowless = [
            (request, verdict.code)
            for _, requests, verdicts in entries
            for request, verdict in zip(requests, verdicts, strict=True)
            if verdict.code in model.ROWLESS
        ]
        if not rowless:
            return
        pipe = self._client.pipeline(transaction=False)
        for request, code in rowless:
            pipe.set(decided_key(request.id), code + request.digest, ex=QUEUED_KEPT_S)
        await pipe.execute()

    async def _settle_shard(
        self, shard: int, items: Sequence[tuple[Entry, Sequence[Request], Sequence[Verdict]]]
    ) -> None:
        keys = KEYS[shard]
        period = int(time.time()) // IDEMPOTENCY_PERIOD_S
        args: list[bytes | int] = [GROUP, 2 * IDEMPOTENCY_PERIOD_S, len(items)]
        kept: list[bytes] = []
        replies: dict[bytes, list[bytes]] = defaultdict(list)
        for entry, requests, verdicts in items:
            back: list[bytes] = []
            answers = replies[entry.address]
            for r, v in zip(requests, verdicts, strict=True):
                answers.append(VERDICT.pack(r.id, v.code, v.created_us, v.expires_us, v.amount))
                if v.code == model.HELD:
                    if r.flags & HAS_KEY:
                        kept.append(r.digest)
                        kept.append(
                            KEPT_HELD.pack(
                                r.fingerprint,
                                v.code,
                                r.id,
                                v.created_us,
                                v.expires_us,
                                v.amount,
                            )
                        )
                    continue
                back.append(CREDIT.pack(r.member, r.ticket_type, r.quantity))
                if r.flags & HAS_KEY:
                    kept.append(r.digest)
                    kept.append(_kept_refusal(r, v))
            args += [entry.id, len(requests), b"".join(back)]
        args += [len(kept) // 2, *kept]
        args += [b"".join(answers) for answers in replies.values()]
        await self._functions.call(
            "korder_settle",
            [
                keys.meta,
                keys.stock,
                keys.allowance,
                keys.idempotency(period),
                keys.idempotency(period + 1),
                keys.stream,
                *(keys.reply(address) for address in replies),
            ],
            *args,
        )

    # -- keeping the gate true

    async def relay(self, conn: Conn, shards: Sequence[int]) -> bool:
        """Tell the gate what the outbox says; True when there may be more.

        Stock is set, not added to, so that telling it twice is harmless; allowances are given
        back, and given back twice they let a member ask for what PostgreSQL then refuses.
        """
        rows = [r async for r in queries.outbox_rows(conn, shards=shards, most=RELAY_BATCH)]
        if not rows:
            return False
        credits: dict[int, list[bytes]] = defaultdict(list)
        for row in rows:
            if row["member_id"] is not None and row["quantity"] > 0:
                credits[row["shard"]].append(
                    CREDIT.pack(row["member_id"], row["ticket_type_id"], row["quantity"])
                )
        for shard, blobs in credits.items():
            await self._functions.call("korder_credit", [KEYS[shard].allowance], b"".join(blobs))
        touched = list({row["ticket_type_id"] for row in rows})
        stock = [r async for r in queries.stock_of_types(conn, ticket_types=touched)]
        await self._set_stock(stock)
        await queries.outbox_done(conn, ids=[row["id"] for row in rows])
        return len(rows) >= RELAY_BATCH

    async def reconcile(self, conn: Conn, shards: Sequence[int]) -> int:
        """Set the stock of every ticket type of these shards; returns how many were off."""
        stock = [r async for r in queries.stock_of_shards(conn, shards=shards)]
        return await self._set_stock(stock)

    async def _set_stock(self, rows: Sequence[Any]) -> int:
        by_shard: dict[int, list[bytes | int]] = defaultdict(list)
        for row in rows:
            by_shard[row["shard"]] += [
                row["ticket_type_id"],
                row["available"],
                row["max_per_member"] or 0,
            ]
        drifted = 0
        for shard, triples in by_shard.items():
            reply = await self._reconcile(shard, triples, complete=False, generation=b"", run=b"")
            drifted += reply
        return drifted

    async def _reconcile(
        self,
        shard: int,
        triples: Sequence[bytes | int],
        *,
        complete: bool,
        generation: bytes,
        run: bytes,
    ) -> int:
        keys = KEYS[shard]
        reply = await self._functions.call(
            "korder_reconcile",
            [keys.meta, keys.stock, keys.limit, keys.stream],
            b"1" if complete else b"0",
            generation,
            run,
            *triples,
        )
        return int(reply[0])

    async def run_id(self) -> bytes:
        """Changes with every start of the server."""
        info = await self._client.info("server")
        return str(info["run_id"]).encode()

    async def not_loaded(self, shards: Sequence[int]) -> set[int]:
        """Shards whose gate is closed, or was loaded before the server last started."""
        run = await self.run_id()
        pipe = self._client.pipeline(transaction=False)
        for shard in shards:
            pipe.hget(KEYS[shard].meta, "run")
        runs = await pipe.execute()
        return {shard for shard, known in zip(shards, runs, strict=True) if known != run}

    async def rebuild(self, conn: Conn, shard: int) -> None:
        """Close the gate of a shard, load it from PostgreSQL, open it as a new generation."""
        keys = KEYS[shard]
        await self._client.delete(keys.meta)
        await self.prepare([shard])
        await self._client.unlink(keys.allowance)
        counters: dict[bytes, int] = {}
        async for row in queries.allowances_of_shard(conn, shard=shard):
            counters[row["member_id"] + row["ticket_type_id"]] = row["quantity"]
            if len(counters) >= ALLOWANCE_BATCH:
                await self._client.hset(keys.allowance, mapping=counters)
                counters = {}
        if counters:
            await self._client.hset(keys.allowance, mapping=counters)
        stock = [r async for r in queries.stock_of_shards(conn, shards=[shard])]
        triples: list[bytes | int] = []
        for row in stock:
            triples += [row["ticket_type_id"], row["available"], row["max_per_member"] or 0]
        generation = b"%x" % time.time_ns()
        await self._reconcile(
            shard, triples, complete=True, generation=generation, run=await self.run_id()
        )


def _kept_refusal(request: Request, verdict: Verdict) -> bytes:
    """What the gate remembers of a refused request's key.

    A key that another request owns stays that one's: kept with the owner's fingerprint, and with
    the mark that sends the API to PostgreSQL for the owner's answer.
    """
    if verdict.fingerprint:
        return KEPT_PENDING.pack(verdict.fingerprint, model.KEY_KNOWN, request.id)
    return KEPT_PENDING.pack(request.fingerprint, verdict.code, request.id)


def _entries(reply: Any, shards: Sequence[int], *, again: bool) -> list[Entry]:
    """Flatten an XREADGROUP reply. An entry that was deleted since comes without fields."""
    shard_of = {KEYS[shard].stream: shard for shard in shards}
    pairs = reply.items() if isinstance(reply, dict) else (reply or [])
    found = []
    for stream, entries in pairs:
        flat = entries[0] if entries and isinstance(entries[0], list) else entries
        for entry_id, fields in flat:
            blob = (fields or {}).get(b"b", b"")
            usable = len(blob) - len(blob) % REQUEST.size
            address = (fields or {}).get(b"a", b"")
            found.append(Entry(shard_of[stream], entry_id, blob[:usable], address, again))
    return found

"""The reservation worker: the single writer of its shards.

A small visible loop: keep the leases, read entries, one transaction, settle; between two batches
it sweeps expired holds, relays releases to the gate and reconciles the gate with the truth.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import asyncpg
import structlog
from redis.exceptions import RedisError, ResponseError

from korder.domains.reservation import metrics, model
from korder.domains.reservation.batch import LeaseLost, Verdict, decide_batch
from korder.domains.reservation.gatekeeper import Entry, Gatekeeper
from korder.domains.reservation.leases import Leases
from korder.domains.reservation.record import ACCEPTED_BEFORE, REQUEST, Request
from korder.domains.reservation.release import RELEASE_BATCH, expire_due
from korder.platform.postgres import UNAVAILABLE as POSTGRES_UNAVAILABLE
from korder.platform.postgres import open_batch_connection
from korder.platform.valkey import UNAVAILABLE as VALKEY_UNAVAILABLE
from korder.platform.valkey import Client
from korder.settings import Settings

log = structlog.get_logger(__name__)

#: How long one read waits for entries. It also bounds how late the periodic work begins.
READ_BLOCK_MS = 25
#: After this many failures of its own an entry goes to the dead letters.
ATTEMPTS_MAX = 3
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)

RETRY = (
    *POSTGRES_UNAVAILABLE,
    *VALKEY_UNAVAILABLE,
    # Also what Valkey says when it is full or read-only: never the fault of the entry in hand.
    RedisError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)


class Worker:
    """Runs until `stop`; survives the absence of PostgreSQL and of Valkey."""

    def __init__(self, settings: Settings, client: Client, name: str) -> None:
        self._settings = settings
        self._gate = Gatekeeper(client)
        self._conn: asyncpg.Connection[asyncpg.Record] | None = None
        self.leases = Leases(name, settings.lease_ms)
        self._stopping = asyncio.Event()
        #: Shards whose pending entries must be read again before new ones.
        self._redeliver: set[int] = set()
        self._attempts: dict[bytes, int] = {}
        self._sweep_at = self._relay_at = self._reconcile_at = self._check_at = 0.0

    def stop(self) -> None:
        """Finish the batch in hand, give the leases back, return from `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """The loop. Every failure is waited out with back-off; nothing is given up."""
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._round()
                failures = 0
            except LeaseLost as lost:
                log.warning("worker.lease_lost", shards=sorted(lost.shards))
                self.leases.lose(lost.shards)
                # Entries of the other shards were read in the same batch: read them again.
                self._redeliver.update(self.leases.held)
            except Exception as error:
                self._redeliver.update(self.leases.held)
                delay = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                if isinstance(error, RETRY):
                    log.warning("worker.waiting", error=repr(error), retry_in_s=delay)
                else:
                    log.exception("worker.failed", retry_in_s=delay)
                failures += 1
                self._drop_connection()
                await asyncio.sleep(delay)
        await self._leave()

    async def _leave(self) -> None:
        if self._conn is None or self._conn.is_closed():
            return
        try:
            await asyncio.shield(self.leases.give_back_all(self._conn))
            await self._conn.close()
        except RETRY:
            log.warning("worker.left_without_giving_back")

    def _drop_connection(self) -> None:
        """It may be stuck in an operation; leases are rows, so nothing needs the session."""
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None

    async def _connection(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._conn is None or self._conn.is_closed():
            self._conn = await open_batch_connection(self._settings.database_url, name="worker")
        return self._conn

    async def _round(self) -> None:
        conn = await self._connection()
        await self._keep_leases(conn)
        await self._check_gate(conn)
        entries = await self._read(conn)
        for chunk in _chunks(entries, self._settings.worker_batch_max):
            mine = [entry for entry in chunk if entry.shard in self.leases.held]
            if mine:
                await self._process(conn, mine)
            await self._keep_leases(conn)  # a backlog may take longer than a lease lasts
        await self._between_batches(conn)

    async def _keep_leases(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        if not self.leases.due():
            return
        taken = await self.leases.maintain(conn)
        if taken:
            log.info("worker.leases_taken", shards=sorted(taken))
            await self._adopt(conn, taken)

    # -- reading

    async def _read(self, conn: "asyncpg.Connection[asyncpg.Record]") -> list[Entry]:
        """What was begun before, else what is new."""
        try:
            begun = await self._pending_again() if self._redeliver else []
            return begun or await self._read_new()
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # The streams are gone: Valkey was emptied under us, maybe in the middle of a rebuild.
            await self._rebuild(conn, set(self.leases.held))
            return []

    async def _read_new(self) -> list[Entry]:
        shards = sorted(self.leases.held)
        if not shards:
            await asyncio.sleep(READ_BLOCK_MS / 1000)
            return []
        return await self._gate.read(shards, block_ms=READ_BLOCK_MS)

    async def _pending_again(self) -> list[Entry]:
        shards = sorted(self._redeliver & set(self.leases.held))
        entries = await self._gate.read_pending(shards) if shards else []
        if not entries:
            self._redeliver.clear()
        return entries

    # -- deciding

    async def _process(
        self, conn: "asyncpg.Connection[asyncpg.Record]", entries: Sequence[Entry]
    ) -> None:
        try:
            await self._decide_and_settle(conn, entries)
        except (LeaseLost, *RETRY):
            raise
        except Exception:
            # Something in here is not processable: find out which, and let the others pass.
            log.exception("worker.batch_failed", entries=len(entries))
            for entry in entries:
                await self._process_alone(conn, entry)

    async def _process_alone(
        self, conn: "asyncpg.Connection[asyncpg.Record]", entry: Entry
    ) -> None:
        try:
            await self._decide_and_settle(conn, [entry])
            self._attempts.pop(entry.id, None)
        except (LeaseLost, *RETRY):
            raise
        except Exception:
            tries = self._attempts[entry.id] = self._attempts.get(entry.id, 0) + 1
            log.exception("worker.entry_failed", shard=entry.shard, tries=tries)
            if tries < ATTEMPTS_MAX:
                self._redeliver.add(entry.shard)
                return
            del self._attempts[entry.id]
            metrics.DEAD_LETTERS.inc()
            requests = [Request._make(r) for r in REQUEST.iter_unpack(entry.blob)]
            await self._gate.bury(entry)
            await self._gate.settle([(entry, requests, [Verdict(model.DEAD)] * len(requests))])

    async def _decide_and_settle(
        self, conn: "asyncpg.Connection[asyncpg.Record]", entries: Sequence[Entry]
    ) -> None:
        per_entry = [
            [Request._make(r) for r in REQUEST.iter_unpack(entry.blob)] for entry in entries
        ]
        requests = [r for part in per_entry for r in part]
        fences = {entry.shard: self.leases.held.get(entry.shard, -1) for entry in entries}
        began = time.perf_counter()
        verdicts = await decide_batch(
            conn, requests, fences, redelivered=any(entry.again for entry in entries)
        )
        metrics.observe_batch(len(requests), time.perf_counter() - began)
        settled, at = [], 0
        for entry, part in zip(entries, per_entry, strict=True):
            settled.append((entry, part, verdicts[at : at + len(part)]))
            at += len(part)
        await asyncio.shield(self._gate.settle(settled))
        if any(r.flags & ACCEPTED_BEFORE for r in requests):
            # While they were in the stream they may have been subtracted twice: put it right now,
            # or somebody hears "sold out" while tickets are left.
            self._reconcile_at = 0.0

    # -- between batches

    async def _adopt(
        self, conn: "asyncpg.Connection[asyncpg.Record]", shards: Iterable[int]
    ) -> None:
        """Take over shards: make sure of their streams, and finish what was begun."""
        wanted = set(shards)
        self._redeliver |= wanted
        await self._gate.prepare(sorted(wanted))
        await self._rebuild(conn, await self._gate.not_loaded(sorted(wanted)))
        self._reconcile_at = 0.0  # the one before may have died in the middle of anything

    async def _check_gate(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        """A Valkey that restarted or was emptied has a gate that must not be trusted."""
        if time.monotonic() < self._check_at or not self.leases.held:
            return
        lost = await self._gate.not_loaded(sorted(self.leases.held))
        await self._rebuild(conn, lost)
        self._check_at = time.monotonic() + 0.2

    async def _rebuild(self, conn: "asyncpg.Connection[asyncpg.Record]", shards: set[int]) -> None:
        if not shards:
            return
        began = time.perf_counter()
        for shard in sorted(shards):
            await self._gate.rebuild(conn, shard)
        self._redeliver |= shards
        # Entries committed before and not settled were counted twice: reconcile once they are.
        self._reconcile_at = 0.0
        metrics.REBUILDS.inc(len(shards))
        log.info(
            "worker.gate_rebuilt",
            shards=sorted(shards),
            took_ms=round((time.perf_counter() - began) * 1000),
        )

    async def _between_batches(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        now = time.monotonic()
        shards = sorted(self.leases.held)
        if now >= self._sweep_at:
            expired = await expire_due(conn)
            metrics.EXPIRED.inc(expired)
            # A full sweep means that more are due: come back after the next batch.
            more = expired >= RELEASE_BATCH
            self._sweep_at = 0.0 if more else now + self._settings.sweep_interval_ms / 1000
        # Not while entries may be committed and still in the stream: they would count twice.
        if now >= self._relay_at and shards and not self._redeliver:
            full = await self._gate.relay(conn, shards)
            self._relay_at = 0.0 if full else now + self._settings.relay_interval_ms / 1000
        if now >= self._reconcile_at and shards and not self._redeliver:
            drifted = await self._gate.reconcile(conn, shards)
            if drifted:
                metrics.DRIFT.inc(drifted)
                log.info("worker.drift_repaired", ticket_types=drifted)
            self._reconcile_at = now + self._settings.reconcile_interval_ms / 1000
            # A worker that was paused past its lease may have read, from the group it shares with
            # its successor, what it may not write any more: look for what nobody has in hand.
            self._redeliver.update(shards)
            await metrics.observe_backlog(self._gate, shards)


def _chunks(entries: Sequence[Entry], most: int) -> Iterable[list[Entry]]:
    """Runs of entries with at most `most` requests together (one entry may be alone above it)."""
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        count = len(entry.blob) // REQUEST.size
        if chunk and size + count > most:
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += count
    if chunk:
        yield chunk


def as_worker_name(name: str, host: str, folder: Path) -> str:
    """The name in the leases: a supervisor's names are unique in its data folder, of one machine.

    Two workers of one name would take the leases from each other for ever.
    """
    return f"{host}:{folder.resolve()}/{name}"

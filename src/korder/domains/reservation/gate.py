"""The API's side of the gate: micro-batches in, verdicts out.

Requests of one event-loop turn join one call of the Function `korder_reserve` (at most one call in
flight per shard). Accepted requests wait here until the worker's verdict arrives on this process'
reply lists. A request keeps its id through every repetition, and PostgreSQL inserts an id once, so
repeating is always safe.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

import structlog

from korder.domains.reservation import metrics, model
from korder.domains.reservation.record import (
    IDEMPOTENCY_PERIOD_S,
    KEPT_HELD,
    KEPT_PENDING,
    KEYS,
    KEYS_REMEMBERED_MAX,
    SHARDS,
    VERDICT,
)
from korder.domains.reservation.waiters import Answer, Waiter, Waiters
from korder.kernel.errors import Code
from korder.platform.valkey import UNAVAILABLE, Client, Functions

__all__ = ["OVERLOADED", "QUEUED", "Answer", "Gate"]

log = structlog.get_logger(__name__)

#: The answer "no verdict yet": 202.
QUEUED = b"P"
#: Queue full, gate not loaded or out of reach: 503.
OVERLOADED = b"Q"

# What the function `korder_reserve` says of each request, one byte each.
_ACCEPTED, _KNOWN = b"AD"
_LATER = b"UQ"
_LETTERS = [bytes((code,)) for code in range(256)]

#: Lua hands back one value for each known key, and can hand back some 8,000.
BATCH_CEILING = 4000

#: A gate that cannot be reached is tried again this often, until the request's budget is spent.
RETRY_S = 0.05
TICK_S = 0.025
#: Between looks at a shard's generation while requests wait unusually long.
GENERATION_CHECK_S = 1.0


class Gate:
    """One per API process. `start` before use, `stop` after the last request."""

    def __init__(
        self,
        client: Client,
        blocking_client: Client,
        *,
        batch_max: int,
        queue_max: int,
        wait_budget_ms: int,
    ) -> None:
        self._client = client
        self._blocking = blocking_client
        self._functions = Functions(client, "korder", Path(__file__).with_name("lua"))
        self._batch_max = min(max(1, batch_max), BATCH_CEILING)
        self._queue_max = queue_max
        self._budget_s = wait_budget_ms / 1000
        self.address = os.urandom(6).hex().encode()
        self._loop = asyncio.get_running_loop()
        self._queues: list[deque[Waiter]] = [deque() for _ in range(SHARDS)]
        self._flushing = [False] * SHARDS
        self._generation = [b""] * SHARDS
        self._waiters = Waiters(queue_max)
        self._tasks: set[asyncio.Task[None]] = set()
        #: Makes a request that was told 202 answerable again after Valkey has lost that too.
        self.remember: Callable[[bytes], Coroutine[None, None, None]] = _nothing
        #: Plain counters, read by the metrics exporter.
        self.batches = 0
        self.batched = 0

    def start(self) -> None:
        """Begin to listen for verdicts and to watch deadlines."""
        self._spawn(self._listen())
        self._spawn(self._watch())
        self._spawn(self._watch_generations())

    async def stop(self) -> None:
        """Stop listening. Whoever still waits is told 202: the worker will decide."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiter in self._waiters:
            waiter.answer(Answer(QUEUED if waiter.accepted else OVERLOADED, waiter.id))

    def submit(
        self, shard: int, rid: bytes, record: bytes, *, respond_async: bool = False
    ) -> "asyncio.Future[Answer]":
        """Put one request (a 75-byte record) before the gate; the future never raises."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        self.put(shard, rid, record, partial(_resolve, future), respond_async=respond_async)
        return future

    def put(
        self,
        shard: int,
        rid: bytes,
        record: bytes,
        tell: Callable[[Answer], None],
        *,
        respond_async: bool = False,
    ) -> None:
        """As `submit`; `tell` is called with the answer, and must not raise."""
        waiter = Waiter(shard, rid, record, tell, self._loop.time() + self._budget_s)
        waiter.attached = not respond_async
        self._waiters.add(waiter)
        self._enqueue(waiter)

    def pending(self, rid: bytes) -> bool:
        """Whether this process still waits for the verdict of a request."""
        return rid in self._waiters

    def may_have_forgotten(self, shard: int, opens_s: float, code: Code) -> bool:
        """Whether a key of this sale may have been decided without the gate remembering it.

        No key is older than its sale, so nothing is forgotten while the sale is younger than both
        the gate's memory of keys and the last rebuild. A closed sale was not asked at the gate.
        """
        if code is Code.SALE_CLOSED:
            return True
        rebuilt_s = int(self._generation[shard] or b"0", 16) / 1e9
        return opens_s < max(rebuilt_s, time.time() - IDEMPOTENCY_PERIOD_S)

    # -- submitting

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _enqueue(self, waiter: Waiter) -> None:
        shard = waiter.shard
        self._queues[shard].append(waiter)
        if not self._flushing[shard]:
            self._flushing[shard] = True
            self._spawn(self._flush(shard))

    async def _flush(self, shard: int) -> None:
        """Send batch after batch until the shard's queue is empty; one call in flight."""
        queue = self._queues[shard]
        try:
            while queue:
                batch = [queue.popleft() for _ in range(min(len(queue), self._batch_max))]
                # Who was told 503 meanwhile, or has gone, must not get a hold that nobody claims.
                batch = [w for w in batch if w.accepted or not w.done]
                if not batch:
                    continue
                try:
                    reply = await self._call(shard, batch)
                except UNAVAILABLE:
                    self._postpone(batch)
                    continue
                except Exception:
                    log.exception("gate.call_failed", shard=shard)
                    self._postpone(batch)
                    continue
                self._apply(shard, batch, reply)
        finally:
            self._flushing[shard] = False

    async def _call(self, shard: int, batch: list[Waiter]) -> list[bytes]:
        keys = KEYS[shard]
        period = int(time.time()) // IDEMPOTENCY_PERIOD_S
        reply: list[bytes] = await self._functions.call(
            "korder_reserve",
            [
                keys.meta,
                keys.stock,
                keys.limit,
                keys.allowance,
                keys.idempotency(period),
                keys.idempotency(period - 1),
                keys.stream,
            ],
            b"".join([waiter.record for waiter in batch]),
            self.address,
            self._queue_max,
            2 * IDEMPOTENCY_PERIOD_S,
            KEYS_REMEMBERED_MAX,
        )
        self.batches += 1
        self.batched += len(batch)
        return reply

    def _apply(self, shard: int, batch: list[Waiter], reply: list[bytes]) -> None:
        generation = reply[0]
        if not generation:
            for waiter in batch:
                self._refuse_or_postpone(waiter)
            return
        self._see_generation(shard, generation)
        known = iter(reply[2:])
        for waiter, code in zip(batch, reply[1], strict=True):
            if code == _ACCEPTED:
                waiter.accepted = True
                waiter.generation = generation
                if not waiter.attached:
                    waiter.answer(Answer(QUEUED, waiter.id))
            elif code == _KNOWN:
                self._replay(waiter, next(known), generation)
            elif code in _LATER:
                self._refuse_or_postpone(waiter)
            else:
                self._finish(waiter, Answer(_LETTERS[code], waiter.id))

    def _replay(self, waiter: Waiter, value: bytes, generation: bytes) -> None:
        """The key is known: answer as it was answered, or wait for that request's verdict."""
        _, mark, rid = KEPT_PENDING.unpack_from(value)
        if mark == QUEUED:
            if rid == waiter.id:
                waiter.accepted = True
                waiter.generation = generation
                if not waiter.attached:
                    waiter.answer(Answer(QUEUED, rid))
            elif not waiter.attached or self._loop.time() >= waiter.deadline:
                self._finish(waiter, Answer(QUEUED, rid, replayed=True))
            else:
                self._loop.call_later(0.02, self._enqueue, waiter)
            return
        if mark == model.HELD:
            _, _, rid, created, expires, amount = KEPT_HELD.unpack(value)
            self._finish(waiter, Answer(mark, rid, created, expires, amount, replayed=True))
            return
        self._finish(waiter, Answer(mark, rid, replayed=True))

    def _postpone(self, batch: list[Waiter]) -> None:
        """Valkey is out of reach; the call may or may not have arrived: try again with the ids."""
        now = self._loop.time()
        for waiter in batch:
            waiter.may_be_counted()
            if waiter.accepted or now + RETRY_S < min(waiter.deadline, now + self._budget_s):
                self._loop.call_later(RETRY_S, self._enqueue, waiter)
            else:
                self._finish(waiter, Answer(OVERLOADED, waiter.id))

    def _refuse_or_postpone(self, waiter: Waiter) -> None:
        """A closed or full gate refuses the new, and keeps what it had accepted before."""
        if waiter.accepted:
            self._loop.call_later(RETRY_S, self._enqueue, waiter)
        else:
            self._finish(waiter, Answer(OVERLOADED, waiter.id))

    def _finish(self, waiter: Waiter, answer: Answer) -> None:
        self._waiters.pop(waiter.id)
        waiter.answer(answer)

    # -- verdicts

    async def _listen(self) -> None:
        lists = [keys.reply(self.address) for keys in KEYS]
        while True:
            try:
                reply = await self._blocking.blpop(lists, timeout=2)
            except UNAVAILABLE:
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:
                log.exception("gate.reply_unreadable")
                await asyncio.sleep(RETRY_S)
                continue
            if reply is not None:
                self.settle(reply[1])

    def settle(self, verdicts: bytes) -> None:
        """Resolve the requests of a block of 41-byte verdicts."""
        pop, pop_detached = self._waiters.pops()
        first = None
        for rid, code, created, expires, amount in VERDICT.iter_unpack(verdicts):
            waiter = pop(rid, None) or pop_detached(rid, None)
            if waiter is not None:
                waiter.answer(Answer(code, rid, created, expires, amount))
                first = first or waiter
        if first is not None:
            metrics.WAIT.observe(self._loop.time() - first.deadline + self._budget_s)

    # -- deadlines and lost generations

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._detach_overdue(self._loop.time())

    def _detach_overdue(self, now: float) -> None:
        for waiter in self._waiters.overdue(now):
            if not waiter.accepted:
                self._finish(waiter, Answer(OVERLOADED, waiter.id))
                continue
            self._waiters.detach(waiter)
            waiter.answer(Answer(QUEUED, waiter.id))
        self._waiters.forget_old(now)

    async def _watch_generations(self) -> None:
        """Apart from the deadlines, which must not wait for a server that hangs."""
        while True:
            await asyncio.sleep(GENERATION_CHECK_S)
            try:
                for shard in {waiter.shard for waiter in self._waiters}:
                    await self._check_generation(shard)
            except UNAVAILABLE:
                continue
            except Exception:
                log.exception("gate.generation_unreadable")

    async def _check_generation(self, shard: int) -> None:
        generation = await self._client.hget(KEYS[shard].meta, "generation")
        if generation:
            self._see_generation(shard, generation)
        elif self._generation[shard]:
            # Emptied, and not rebuilt yet: what clients were told to ask for is gone as well.
            self._generation[shard] = b""
            for waiter in self._waiters.told_202(shard):
                await self.remember(waiter.record)

    def _see_generation(self, shard: int, generation: bytes) -> None:
        """A rebuilt gate may have lost what was accepted before: submit that again."""
        if self._generation[shard] == generation:
            return
        self._generation[shard] = generation
        for waiter in self._waiters:
            if waiter.shard == shard and waiter.accepted and waiter.generation != generation:
                waiter.generation = generation
                waiter.may_be_counted()
                self._enqueue(waiter)
                if not waiter.attached:
                    self._spawn(self.remember(waiter.record))


def _resolve(future: "asyncio.Future[Answer]", answer: Answer) -> None:
    if not future.done():  # its client may have gone
        future.set_result(answer)


async def _nothing(_record: bytes) -> None:
    """Nobody asked to be told."""

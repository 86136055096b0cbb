"""What a paused or interrupted worker leaves behind: nothing undecided, nothing misjudged."""

import asyncio
from uuid import UUID

import pytest
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import ResponseError

from korder.domains.reservation import model
from korder.domains.reservation.record import IDEMPOTENCY_PERIOD_S, KEPT_PENDING, KEYS, REQUEST
from korder.kernel.ids import new_id_bytes
from tests.core import eventually, forget_keys, request_of
from tests.reserving import Core


async def test_an_entry_read_by_a_worker_without_its_lease_is_found_again(core: Core):
    """It was paused before its read, and takes from the group what its successor waits for."""
    worker = await core.worker()
    gate, sale = await core.gate(wait_budget_ms=4000), await core.sale(5)
    read, stolen, patched = worker._gate.read, [], asyncio.Event()

    async def read_after_another(shards, *, block_ms):
        patched.set()
        if not stolen:
            stolen.extend(await read(shards, block_ms=block_ms))  # nobody will ever decide it
            return []
        return await read(shards, block_ms=block_ms)

    worker._gate.read = read_after_another
    await patched.wait()
    answer = await core.reserve(gate, sale)
    assert len(stolen) == 1
    assert answer.code == model.HELD


async def test_a_202_is_answerable_if_the_worker_dies_right_after_settling(core: Core):
    """Its verdict left no row, and its entry is gone: only what was told can tell."""
    steps = await core.steps()
    sale = await core.sale(5, shard=3)
    await steps.keeper.rebuild(steps.conn, sale.shard)
    member = new_id_bytes()
    await steps.admit(sale.shard, request_of(sale.type_raw, member, 1, "k"))
    await steps.work()
    await forget_keys(core.client)
    again = request_of(sale.type_raw, member, 1, "k")
    await steps.admit(sale.shard, again)
    await core.service().remember_queued(REQUEST.pack(*again), sale.event_id.bytes)
    decided = await steps.decide(await steps.read())
    assert [v.code for d in decided for v in d.verdicts] == [model.KEY_KNOWN]
    steps.keeper._client = _BreaksAfterSettling(steps.keeper._client)
    with pytest.raises(ValkeyConnectionError):
        await steps.settle(decided)
    steps.keeper._client = steps.client
    for entries in (await steps.pending(), await steps.read()):
        if entries:
            await steps.settle(await steps.decide(entries))
    found = await core.service().get(UUID(bytes=member), UUID(bytes=again.id))
    assert found.status == "held"


async def test_a_server_that_refuses_to_settle_makes_no_dead_letter(core: Core):
    """The entry is good and committed; it is the server that is full, or read-only for a while."""
    worker = await core.worker()
    gate, sale = await core.gate(), await core.sale(5)
    settle, refused = worker._gate.settle, []

    async def full(entries):
        if len(refused) < 6:
            refused.append(entries)
            raise ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        await settle(entries)

    worker._gate.settle = full
    answer = await core.reserve(gate, sale)
    assert answer.code == model.HELD
    assert await core.client.xlen(KEYS[sale.shard].dead) == 0


async def test_a_worker_renews_its_leases_in_the_middle_of_a_long_backlog(core: Core):
    """Else a second worker takes the shards while the first is hard at work, and they tumble."""
    worker = await core.worker("first", worker_batch_max=1, lease_ms=900)
    second = await core.worker("second", ready=False, lease_ms=900)
    await eventually(lambda: _shares(worker, second))
    shard = min(worker.leases.held)
    fence = worker.leases.held[shard]
    sale = await core.sale(50, shard=shard)
    settle, lost = worker._gate.settle, []
    lose = worker.leases.lose

    async def slow(entries):
        await asyncio.sleep(0.12)
        await settle(entries)

    def note(shards):
        lost.append(shards)
        lose(shards)

    worker._gate.settle, worker.leases.lose = slow, note
    gates = [await core.gate() for _ in range(20)]
    answers = await asyncio.gather(*(core.reserve(gate, sale) for gate in gates))
    assert [a.code for a in answers] == [model.HELD] * 20
    assert lost == []
    assert worker.leases.held.get(shard) == fence


async def test_a_verdict_overrides_the_promise_of_a_faster_clock(core: Core):
    """The API wrote the key into the next period; this worker's clock is a moment behind."""
    steps = await core.steps()
    sale = await core.sale(5)
    await steps.keeper.rebuild(steps.conn, sale.shard)
    request = request_of(sale.type_raw, None, 1, "k")
    await steps.admit(sale.shard, request)
    keys = KEYS[sale.shard]
    [name] = [key async for key in core.client.scan_iter(keys.tag + b":idem:*")]
    period = int(name.rpartition(b":")[2])
    await core.client.rename(name, keys.idempotency(period + 1))
    await steps.work()
    kept = await core.client.hget(keys.idempotency(period + 1), request.digest)
    _, mark, rid = KEPT_PENDING.unpack_from(kept)
    assert (mark, rid) == (model.HELD, request.id)
    assert await core.client.ttl(keys.idempotency(period + 1)) > IDEMPOTENCY_PERIOD_S


async def test_the_worker_survives_functions_that_were_flushed(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(5)
    await core.client.function_flush()
    assert (await core.reserve(gate, sale)).code == model.HELD
    await core.client.function_flush()
    service = core.service()
    row = (await core.rows(sale))[0]
    await service.cancel(row["member_id"], row["id"])
    await core.relayed()


class _BreaksAfterSettling:
    """A connection that ends between the Function and what follows it."""

    def __init__(self, client):
        self._client = client

    def __getattr__(self, name):
        return getattr(self._client, name)

    def pipeline(self, **_):
        raise ValkeyConnectionError("gone")


async def _shares(first, second) -> bool:
    return (len(first.leases.held), len(second.leases.held)) == (8, 8)

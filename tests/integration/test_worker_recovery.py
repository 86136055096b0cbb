"""What happens when something dies between any two steps: nothing is lost, nothing counts twice."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as ValkeyConnectionError

from korder.domains.reservation import model
from korder.domains.reservation.batch import LeaseLost
from korder.domains.reservation.gate import OVERLOADED, QUEUED
from korder.domains.reservation.record import KEYS, REQUEST
from korder.kernel.ids import new_id_bytes
from tests.core import Steps, eventually, request_of
from tests.factories import OnSale
from tests.reserving import Core


async def opened(core: Core, *capacities: int, **options) -> tuple[Steps, OnSale]:
    sale = await core.sale(*capacities, **options)
    return await core.steps(), sale


async def test_redelivery_after_commit_and_before_settle_changes_nothing(core: Core):
    steps, sale = await opened(core, 2, max_per_member=1)
    member = new_id_bytes()
    requests = [request_of(sale.type_raw, member, key="k"), request_of(sale.type_raw)]
    reply = await steps.admit(sale.shard, *requests, request_of(sale.type_raw))
    assert reply[1] == b"AAS"
    first = await steps.decide(await steps.read())  # ... and the worker dies here
    before = await core.rows(sale)
    entries = await steps.pending()
    assert [entry.again for entry in entries] == [True]
    again = await steps.decide(entries)
    assert again[0].verdicts == first[0].verdicts
    assert await core.rows(sale) == before
    await steps.settle(again)
    assert await core.availability(sale) == (2, 2, 0)
    assert await steps.stock(sale.shard, sale.type_raw) == 0
    assert await steps.pending() == []


async def test_settled_twice_gives_back_once(core: Core):
    steps, sale = await opened(core, 3, max_per_member=2)
    await core.pool.execute("UPDATE reservations.inventory SET capacity = 1")
    member = new_id_bytes()
    await steps.admit(sale.shard, request_of(sale.type_raw, member, 2))
    decided = await steps.decide(await steps.read())
    assert [v.code for v in decided[0].verdicts] == [model.SOLD_OUT]
    for _ in range(2):
        await steps.settle(decided)
        assert await steps.stock(sale.shard, sale.type_raw) == 3
        assert await steps.allowance(sale.shard, member, sale.type_raw) == 0


async def test_a_worker_killed_between_commit_and_settle_is_replaced(core: Core):
    worker = await core.worker("first")
    gate, sale = await core.gate(), await core.sale(5, max_per_member=1)

    committed = asyncio.Event()

    async def never(_):
        committed.set()
        await asyncio.Event().wait()

    worker._gate.settle = never
    asked = asyncio.create_task(core.reserve(gate, sale))
    await committed.wait()
    await core.kill_worker(worker)
    await core.worker("second", ready=False)
    answer = await asked  # the second worker found it in the stream, and in PostgreSQL
    assert answer.code == model.HELD
    assert await core.availability(sale) == (5, 1, 0)


async def test_a_worker_that_was_paused_past_its_lease_writes_nothing(core: Core):
    old, sale = await opened(core, 5)
    await old.admit(sale.shard, request_of(sale.type_raw))
    entries = await old.read()
    # ... it is paused here, its leases run out, and another takes over and does the work.
    await core.pool.execute("UPDATE reservations.shard_leases SET expires_at = now()")
    await core.pool.execute("DELETE FROM reservations.workers")
    new = await core.steps("new")
    assert new.leases.held[sale.shard] > old.leases.held[sale.shard]
    await new.settle(await new.decide(await new.pending()))
    with pytest.raises(LeaseLost) as lost:
        await old.decide(entries)
    assert lost.value.shards == {sale.shard}
    assert len(await core.rows(sale)) == 1
    assert await core.availability(sale) == (5, 1, 0)


async def test_a_takeover_waits_for_the_batch_that_is_being_written(core: Core):
    """The fence is locked until the commit: no moment is left between check and write."""
    old = await core.steps("old")
    async with old.conn.transaction():
        await old.conn.fetch("SELECT fence FROM reservations.shard_leases FOR SHARE")
        await core.pool.execute("SELECT 1")
        new = await core.steps("new", opened=False)
        assert await new.leases.maintain(new.conn) == set()  # skips what is locked


async def test_a_lease_lost_in_one_shard_does_not_strand_the_others(core: Core):
    """Both entries were read in one batch, which the lost shard undid."""
    worker = await core.worker("first")
    gate = await core.gate(wait_budget_ms=3000)
    one, two = await core.sale(5, shard=1), await core.sale(5, shard=2)
    read, lose, lost = worker._gate.read, worker.leases.lose, []

    def note(shards):
        lost.append(shards)
        lose(shards)

    worker.leases.lose = note
    patched = asyncio.Event()

    async def read_both(shards, *, block_ms):
        """As a busy worker does: both entries at once, while somebody takes over shard 1."""
        patched.set()
        entries = await read(shards, block_ms=block_ms)
        if entries:
            await asyncio.sleep(0.2)
            entries += await read(shards, block_ms=1)
            worker._gate.read = read
            await core.pool.execute(
                "UPDATE reservations.shard_leases SET owner = 'other', fence = fence + 1,"
                " expires_at = now() + interval '400 ms' WHERE shard = 1"
            )
        return entries

    worker._gate.read = read_both
    await patched.wait()
    answers = await asyncio.gather(core.reserve(gate, one), core.reserve(gate, two))
    assert lost == [{1}]
    assert [answer.code for answer in answers] == [model.HELD, model.HELD]


async def test_a_poisoned_entry_becomes_a_dead_letter_and_frees_its_stock(core: Core):
    await core.worker(reconcile_interval_ms=60_000)
    gate = await core.gate()
    sale, other = await core.sale(5, max_per_member=3), await core.sale(5)
    member = new_id_bytes()
    # PostgreSQL's CHECK refuses a quantity of zero, which no API lets through. Two poisoned
    # requests of one moment share an entry, good ones of another moment have their own.
    keys = KEYS[sale.shard]
    poison = [request_of(sale.type_raw, member, 0, key="k"), request_of(sale.type_raw, member, 2)]
    answers = await asyncio.gather(
        *(core.submit(gate, sale, request) for request in poison),
        *(core.reserve(gate, other) for _ in range(3)),
    )
    assert [a.code for a in answers] == [model.DEAD] * 2 + [model.HELD] * 3
    assert await core.client.xlen(keys.dead) == 1
    [(_, letter)] = await core.client.xrange(keys.dead)
    assert letter[b"b"] == b"".join(REQUEST.pack(*request) for request in poison)
    assert await core.client.hget(keys.stock, sale.type_raw) == b"5"
    assert await core.client.hget(keys.allowance, member + sale.type_raw) is None
    assert (await core.reserve(gate, sale, member, 3)).code == model.HELD
    await core.client.delete(keys.dead)  # read and dealt with


async def test_two_workers_share_the_shards_and_one_inherits_the_others(core: Core):
    first, second = await core.worker("first"), await core.worker("second", ready=False)
    await eventually(lambda: _counts(first, second, (8, 8)))
    await core.kill_worker(first)
    await eventually(lambda: _counts(first, second, (8, 16)))
    gate = await core.gate()
    for shard in range(16):
        sale = await core.sale(1, shard=shard)
        assert (await core.reserve(gate, sale)).code == model.HELD


async def test_a_worker_that_stops_gives_its_leases_back_at_once(core: Core):
    worker = await core.worker("first", lease_ms=60_000)
    await core.stop_worker(worker)
    second = await core.worker("second", lease_ms=60_000)
    assert len(second.leases.held) == 16


# -- Valkey


async def test_valkey_emptied_in_the_middle_of_a_rush(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(300, max_per_member=1)
    codes: list[bytes] = []

    async def member() -> None:
        me = new_id_bytes()
        for _ in range(40):  # as a client does on 503
            answer = await core.reserve(gate, sale, me, key="once")
            if answer.code != OVERLOADED:
                codes.append(answer.code)
                return
            await asyncio.sleep(0.05)

    rush = [asyncio.create_task(member()) for _ in range(150)]
    await asyncio.sleep(0.01)
    await core.client.flushall()
    rush += [asyncio.create_task(member()) for _ in range(150)]
    await asyncio.sleep(0.03)
    await core.client.flushall()
    await asyncio.gather(*rush)
    assert len(codes) == 300
    assert await core.availability(sale) == (300, 300, 0)
    assert len({row["member_id"] for row in await core.rows(sale)}) == 300


async def test_valkey_restarted_with_its_data_is_not_trusted(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(5)
    await core.reserve(gate, sale)
    keys = KEYS[sale.shard]
    generation = await core.client.hget(keys.meta, "generation")
    await core.client.hset(keys.meta, "run", b"an earlier life")
    await core.client.hset(keys.stock, sale.type_raw, 77)
    await eventually(lambda: _new_generation(core, keys, generation))
    assert await core.client.hget(keys.stock, sale.type_raw) == b"4"
    assert (await core.reserve(gate, sale)).code == model.HELD


async def test_a_rebuild_counts_what_is_still_in_the_stream(core: Core):
    steps, sale = await opened(core, 5, max_per_member=2)
    ann = new_id_bytes()
    await steps.admit(sale.shard, request_of(sale.type_raw, ann, 1))
    await steps.work()
    await steps.admit(sale.shard, request_of(sale.type_raw, ann, 1))
    await steps.admit(sale.shard, request_of(sale.type_raw, None, 2))
    await steps.keeper.rebuild(steps.conn, sale.shard)
    assert await steps.stock(sale.shard, sale.type_raw) == 1
    assert await core.client.hget(KEYS[sale.shard].meta, "pending") == b"2"
    # The allowance of what is in the stream is not known: the gate admits, PostgreSQL refuses.
    assert await steps.allowance(sale.shard, ann, sale.type_raw) == 1
    assert (await steps.admit(sale.shard, request_of(sale.type_raw, ann, 1)))[1] == b"A"
    codes = [v.code for decided in await steps.work() for v in decided.verdicts]
    assert codes == [model.HELD, model.HELD, model.OVER_LIMIT]
    assert await steps.stock(sale.shard, sale.type_raw) == 1


async def test_a_rebuild_with_committed_and_unsettled_entries_ends_exact_at_once(core: Core):
    """Such entries are counted twice, in PostgreSQL and in the stream, until they are settled."""
    worker = await core.worker(reconcile_interval_ms=60_000)
    gate, sale = await core.gate(), await core.sale(5)
    settle = worker._gate.settle

    async def restart_before_settle(_):
        worker._gate.settle = settle
        await core.client.hset(KEYS[sale.shard].meta, "run", b"an earlier life")
        worker._check_at = 0.0
        raise ValkeyConnectionError("restarted")

    worker._gate.settle = restart_before_settle
    assert (await core.reserve(gate, sale)).code == model.HELD
    await eventually(lambda: _stock_is(core, sale, b"4"))


@pytest.mark.parametrize("scarce", ["allowance", "stock"])
async def test_a_hold_that_was_committed_and_forgotten_by_valkey_is_still_answered(
    core: Core, scarce: str
):
    """The API submits it again; its own hold must not be the reason to refuse it."""
    stock = {"stock": (1, None), "allowance": (9, 1)}
    capacity, limit = stock[scarce]
    steps, sale = await opened(core, capacity, max_per_member=limit)
    gate = await core.gate(wait_budget_ms=4000)
    asked = asyncio.create_task(core.reserve(gate, sale))
    entries = await eventually(steps.read)
    await steps.decide(entries)  # committed ...
    await core.client.flushall()  # ... and not settled: nobody knows in Valkey
    await steps.open()

    async def answered() -> bool:
        await steps.work()
        return asked.done()

    await eventually(answered)
    assert (await asked).code == model.HELD
    assert len(await core.rows(sale)) == 1


async def test_what_valkey_lost_before_the_commit_is_submitted_again(core: Core):
    steps, sale = await opened(core, 5)
    gate = await core.gate(wait_budget_ms=4000)
    asked = [asyncio.create_task(core.reserve(gate, sale)) for _ in range(3)]
    await eventually(steps.read)
    await core.client.flushall()
    await steps.open()

    async def answered() -> bool:
        await steps.work()
        return all(task.done() for task in asked)

    await eventually(answered)
    assert [task.result().code for task in asked] == [model.HELD] * 3


async def test_detached_requests_are_submitted_again_too(core: Core):
    steps, sale = await opened(core, 5)
    gate = await core.gate(wait_budget_ms=50)
    request = request_of(sale.type_raw)
    assert (await core.submit(gate, sale, request)).code == QUEUED
    await core.client.flushall()
    await steps.open()

    async def decided() -> bool:
        await steps.work()
        return not gate.pending(request.id)

    await eventually(decided)
    assert [row["id"].bytes for row in await core.rows(sale)] == [request.id]


async def _counts(first, second, wanted: tuple[int, int]) -> bool:
    return (len(first.leases.held), len(second.leases.held)) == wanted


async def _new_generation(core: Core, keys, old: bytes) -> bool:
    return await core.client.hget(keys.meta, "generation") not in (None, old)


async def _stock_is(core: Core, sale: OnSale, stock: bytes) -> bool:
    return await core.client.hget(KEYS[sale.shard].stock, sale.type_raw) == stock

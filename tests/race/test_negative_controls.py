"""Each guard with a test that shows the race when it is off, and not when it is on.

A guard whose absence no test notices is not known to work.
"""

import asyncio
import functools
from pathlib import Path

import asyncpg
import pytest

from korder.domains.reservation import batch, model
from korder.domains.reservation.batch import LeaseLost
from korder.domains.reservation.record import KEYS
from korder.kernel.ids import new_id_bytes
from tests.core import broken_rules, forget_keys, request_of
from tests.race import naive
from tests.reserving import Core


@pytest.mark.parametrize(
    ("guard", "oversold"), [("none", True), ("row lock", False), ("check", False)]
)
async def test_read_then_write_oversells_without_a_guard(core: Core, guard: str, oversold: bool):
    sale = await core.sale(1)
    async with core.pool.acquire() as one, core.pool.acquire() as two:
        await one.execute(naive.SCRATCH + (naive.CHECK if guard == "check" else ""))
        try:
            await one.execute(
                "INSERT INTO reservations.scratch SELECT * FROM reservations.inventory"
            )
            go, read_one, read_two = asyncio.Event(), asyncio.Event(), asyncio.Event()
            lock = guard == "row lock"
            first = asyncio.create_task(
                naive.reserve_one(one, sale.type_id, lock=lock, read=read_one, go=go)
            )
            await read_one.wait()
            second = asyncio.create_task(
                naive.reserve_one(two, sale.type_id, lock=lock, read=read_two, go=go)
            )
            # Without the lock both have read before either writes; with it the second cannot.
            if lock:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(read_two.wait(), 0.3)
            else:
                await read_two.wait()
            go.set()
            won = sorted([await first, await second], reverse=True)  # either may come first
            held = await one.fetchval("SELECT held FROM reservations.scratch")
        finally:
            await one.execute("DROP TABLE reservations.scratch")
    assert (held > 1) == oversold
    assert won == [True, oversold]


@pytest.mark.parametrize("guard", [True, False])
async def test_the_constraint_stands_even_if_the_decision_is_wrong(
    core: Core, monkeypatch, guard: bool
):
    """The last line of defence: a worker that decides nonsense cannot commit it."""
    if not guard:
        monkeypatch.setattr(batch.model, "decide", naive.decide_without_stock)
    sale = await core.sale(1)
    steps = await core.steps()
    await core.client.hset(KEYS[sale.shard].stock, sale.type_raw, 9)
    await steps.admit(sale.shard, request_of(sale.type_raw), request_of(sale.type_raw))
    if guard:
        codes = [v.code for decided in await steps.work() for v in decided.verdicts]
        assert codes == [model.HELD, model.SOLD_OUT]
        return
    with pytest.raises(asyncpg.CheckViolationError):
        await steps.work()
    assert await core.rows(sale) == []
    monkeypatch.undo()


@pytest.mark.parametrize("guard", [True, False])
async def test_without_the_fence_a_paused_worker_makes_the_gate_wrong(
    core: Core, monkeypatch, guard: bool
):
    """Reconcile is exact because one worker alone moves the stream into PostgreSQL."""
    if not guard:
        monkeypatch.setattr(batch, "_check_fences", naive.check_no_fence)
    sale = await core.sale(5)
    old = await core.steps("old")
    await old.admit(sale.shard, request_of(sale.type_raw))
    entries = await old.read()
    # Paused here; the lease runs out and somebody else takes the shards.
    await core.pool.execute("UPDATE reservations.shard_leases SET expires_at = now()")
    await core.pool.execute("DELETE FROM reservations.workers")
    new = await core.steps("new", opened=False)
    await new.leases.maintain(new.conn)
    assert sale.shard in new.leases.held
    set_stock = new.keeper._set_stock
    wrote: list[bool] = []

    async def wake_up_in_between(rows):
        """The new one has read PostgreSQL and not told the gate yet: the old one wakes up."""
        try:
            await old.settle(await old.decide(entries))
            wrote.append(True)
        except LeaseLost:
            wrote.append(False)
        return await set_stock(rows)

    new.keeper._set_stock = wake_up_in_between
    await new.keeper.reconcile(new.conn, [sale.shard])
    new.keeper._set_stock = set_stock
    monkeypatch.undo()
    await new.settle(await new.decide(await new.pending()))
    right = 5 - len(await core.rows(sale))
    assert wrote == [not guard]
    assert (await new.stock(sale.shard, sale.type_raw) == right) == guard


@pytest.mark.parametrize("guard", [True, False])
async def test_without_the_first_acknowledgement_a_second_settle_gives_back_again(
    core: Core, tmp_path: Path, guard: bool
):
    sale = await core.sale(5, max_per_member=5)
    steps = await core.steps()
    if not guard:
        steps.keeper._functions = naive.WithoutFirstAck(core.client, tmp_path)
    await core.pool.execute("UPDATE reservations.inventory SET capacity = 1")
    member = new_id_bytes()
    await steps.admit(sale.shard, request_of(sale.type_raw, member, 3))
    decided = await steps.decide(await steps.read())
    assert decided[0].verdicts[0].code == model.SOLD_OUT
    await steps.settle(decided)
    await steps.settle(decided)
    stock = await steps.stock(sale.shard, sale.type_raw)
    if not guard:
        await core.client.function_delete("naive")
    assert stock == (5 if guard else 8)


@pytest.mark.parametrize("guard", [True, False])
async def test_without_the_unique_key_a_forgotten_key_reserves_twice(core: Core, guard: bool):
    sale, member = await core.sale(5), new_id_bytes()
    steps = await core.steps()
    outer = steps.conn.transaction()
    await outer.start()  # the index comes back with the rollback
    if not guard:
        await steps.conn.execute("DROP INDEX reservations.reservations_one_per_key")
    codes = []
    for _ in range(2):
        await steps.admit(sale.shard, request_of(sale.type_raw, member, key="k"))
        codes += [v.code for d in await steps.decide(await steps.read()) for v in d.verdicts]
        await forget_keys(core.client)
    rows = await steps.conn.fetchval("SELECT count(*) FROM reservations.reservations")
    await outer.rollback()
    assert (codes, rows) == (([b"H", b"K"], 1) if guard else ([b"H", b"H"], 2))


@pytest.mark.parametrize("guard", [True, False])
async def test_without_the_check_in_decide_the_allowance_is_exceeded(
    core: Core, monkeypatch, guard: bool
):
    if not guard:
        without = functools.partial(naive.decide_without_limit, decide=model.decide)
        monkeypatch.setattr(batch.model, "decide", without)
        core.skip_audit = "the allowance is exceeded on purpose"
    sale, member = await core.sale(9, max_per_member=1), new_id_bytes()
    steps = await core.steps()
    for _ in range(2):
        await steps.admit(sale.shard, request_of(sale.type_raw, member))
        await core.client.delete(KEYS[sale.shard].allowance)  # as a gate that lost its memory
    await steps.work()
    assert bool(await broken_rules(core.pool)) == (not guard)
    held = [row for row in await core.rows(sale) if row["status"] == "held"]
    assert len(held) == (1 if guard else 2)


@pytest.mark.parametrize("guard", [True, False])
async def test_without_the_stock_at_the_gate_the_crowd_reaches_postgresql(core: Core, guard: bool):
    """The early no is what keeps the cost of a crowd away from PostgreSQL."""
    sale = await core.sale(3)
    steps = await core.steps()
    if not guard:
        await core.client.hset(KEYS[sale.shard].stock, sale.type_raw, 1000)
    await steps.admit(sale.shard, *(request_of(sale.type_raw) for _ in range(50)))
    decided = await steps.work()
    assert sum(len(d.requests) for d in decided) == (3 if guard else 50)
    assert await core.availability(sale) == (3, 3, 0)  # and PostgreSQL is right either way

"""Whether the audit would notice: allowances at the gate, and answers that were lost."""

import asyncio
from uuid import UUID

from korder.domains.reservation import model
from korder.domains.reservation.gate_allowances import check_allowances
from korder.domains.reservation.gate_invariants import check_gate
from korder.domains.reservation.invariants import (
    Acknowledged,
    check,
    check_acknowledged,
    queries,
)
from korder.domains.reservation.record import KEYS
from korder.kernel.ids import new_id_bytes
from tests.core import request_of
from tests.factories import OnSale
from tests.reserving import Core

#: Long enough for a worker that relays every 10 ms, short for what never becomes right.
PATIENCE_S = 0.5
NAME = "no allowance at the gate is too high"


async def found(core: Core) -> tuple[int, int, tuple[str, ...]]:
    async with core.pool.acquire() as conn:
        finding = await check_allowances(conn, core.client, patience_s=PATIENCE_S)
    return finding.checked, finding.failed, finding.examples


async def sold(core: Core) -> tuple[OnSale, list[bytes]]:
    """Two members with two tickets each of a limited type."""
    await core.worker()
    gate, sale = await core.gate(), await core.sale(9, max_per_member=2)
    members = [new_id_bytes(), new_id_bytes()]
    for member in members:
        assert (await core.reserve(gate, sale, member, 2)).code == model.HELD
    return sale, members


async def test_6_a_member_of_whom_the_gate_thinks_too_much(core: Core):
    sale, (one, _) = await sold(core)
    assert await found(core) == (2, 0, ())
    keys = KEYS[sale.shard]
    await core.client.hincrby(keys.allowance, one + sale.type_raw, 1)
    checked, failed, examples = await found(core)
    assert (checked, failed) == (2, 1)
    assert str(UUID(bytes=one)) in examples[0]
    assert "gate has 3, right is 2" in examples[0]
    async with core.pool.acquire() as conn:
        findings = await check_gate(conn, core.client, patience_s=PATIENCE_S)
    assert [f.name for f in findings if not f.ok] == [NAME]
    # Another's that is too low does not hide it, and is no finding of its own.
    await core.client.hset(keys.allowance, one + sale.type_raw, 1)
    assert (await found(core))[1] == 0


async def test_6_a_member_who_never_had_any(core: Core):
    sale, _ = await sold(core)
    holder = new_id_bytes() + sale.type_raw
    await core.client.hset(KEYS[sale.shard].allowance, holder, 1)
    assert (await found(core))[1] == 1
    await core.client.hdel(KEYS[sale.shard].allowance, holder)


async def test_6_what_is_on_its_way_is_no_finding(core: Core):
    steps = await core.steps()
    sale, free = await core.sale(9, max_per_member=2), await core.sale(9)
    for on_sale in (sale, free):
        await steps.keeper.rebuild(steps.conn, on_sale.shard)
    member = new_id_bytes()
    await steps.admit(sale.shard, request_of(sale.type_raw, member))
    await steps.admit(free.shard, request_of(free.type_raw, member))
    assert await found(core) == (1, 0, ())  # accepted and undecided
    decided = await steps.decide(await steps.read())
    assert await found(core) == (1, 0, ())  # decided and unsettled
    await steps.settle(decided)
    assert await found(core) == (1, 0, ())


async def test_6_a_release_that_is_never_told(core: Core):
    """Without a relay the gate goes on counting what the member gave back."""
    steps = await core.steps()
    sale = await core.sale(9, max_per_member=2)
    await steps.keeper.rebuild(steps.conn, sale.shard)
    member = new_id_bytes()
    request = request_of(sale.type_raw, member)
    await steps.admit(sale.shard, request)
    await steps.work()
    await core.service().cancel(UUID(bytes=member), UUID(bytes=request.id))
    assert (await found(core))[1] == 1
    await steps.keeper.relay(steps.conn, steps.shards)
    assert await found(core) == (0, 0, ())


async def test_6_allowances_are_judged_rightly_while_it_sells(core: Core):
    """Members come, reserve and give back, all the time; nothing of that is a finding."""
    await core.worker()
    gate, sale, service = await core.gate(), await core.sale(1000, max_per_member=1), core.service()
    stop = asyncio.Event()

    async def visit() -> None:
        while not stop.is_set():
            member = new_id_bytes()
            answer = await core.reserve(gate, sale, member)
            await service.cancel(UUID(bytes=member), UUID(bytes=answer.id))

    visitors = [asyncio.create_task(visit()) for _ in range(10)]
    try:
        for _ in range(10):
            async with core.pool.acquire() as conn:
                finding = await check_allowances(conn, core.client, patience_s=3.0)
            assert finding.ok, finding
    finally:
        stop.set()
        await asyncio.gather(*visitors)


# -- what else must not go unnoticed


async def test_1_one_ticket_more_than_there_are(core: Core):
    """Past the CHECK, which somebody has dropped (and which comes back with the rollback)."""
    await sold(core)
    async with core.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            await conn.execute(
                "ALTER TABLE reservations.inventory DROP CONSTRAINT inventory_never_oversold"
            )
            await conn.execute("UPDATE reservations.inventory SET capacity = 3")
            row = await queries.audited_stock(conn)
        finally:
            await transaction.rollback()
    assert (row["failed"], row["checked"]) == (1, 1)
    assert "capacity 3, counted held 4" in row["examples"][0]


async def test_4_a_201_whose_row_is_gone(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(9)
    member = new_id_bytes()
    answer = await core.reserve(gate, sale, member, 2)
    told = [Acknowledged(UUID(bytes=answer.id), UUID(bytes=member), 2)]
    async with core.pool.acquire() as conn:
        assert (await check_acknowledged(conn, sale.type_id, told)).ok
        await conn.execute("DELETE FROM reservations.reservations")
        assert not (await check_acknowledged(conn, sale.type_id, told)).ok
        names = [f.name for f in await check(conn, sweep_interval_ms=50) if not f.ok]
        await conn.execute("UPDATE reservations.inventory SET held = 0")
    assert names == ["held and sold are the sums of the reservations, within capacity"]
    core.promised.clear()

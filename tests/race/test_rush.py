"""Everybody at once: the main job, in-process, on real servers."""

import asyncio
from collections import Counter

import pytest

from korder.domains.reservation import model
from korder.domains.reservation.gate import Gate
from korder.kernel.ids import new_id_bytes
from tests.core import eventually, forget_keys
from tests.reserving import Core


@pytest.mark.parametrize(("workers", "gates"), [(1, 1), (2, 2)])
async def test_a_thousand_members_want_five_hundred_tickets_twice(
    core: Core, workers: int, gates: int
):
    running = [await core.worker(f"worker-{n}", ready=n == 0) for n in range(workers)]
    await eventually(lambda: _shared(running))
    doors = [await core.gate() for _ in range(gates)]
    sale = await core.sale(500, max_per_member=1)
    members = [new_id_bytes() for _ in range(1000)]
    asked = [
        core.reserve(doors[(n + attempt) % gates], sale, member)
        for attempt in range(2)
        for n, member in enumerate(members)
    ]
    answers = await asyncio.gather(*asked)
    codes = Counter(answer.code for answer in answers)
    assert codes[model.HELD] == 500
    assert set(codes) <= {model.HELD, model.SOLD_OUT, model.OVER_LIMIT}
    held = [row for row in await core.rows(sale) if row["status"] == "held"]
    assert len({row["member_id"] for row in held}) == len(held) == 500
    assert {row["id"].bytes for row in held} == set(core.promised)
    assert await core.availability(sale) == (500, 500, 0)


async def test_quantities_of_all_sizes_sell_to_the_last_ticket(core: Core):
    await core.worker()
    gate = await core.gate(batch_max=64)
    sale = await core.sale(400)
    asked = [core.reserve(gate, sale, quantity=1 + n % 5) for n in range(600)]
    answers = await asyncio.gather(*asked)
    assert await core.availability(sale) == (400, 400, 0)
    assert Counter(a.code for a in answers)[model.SOLD_OUT] > 0


async def test_sixteen_events_on_two_workers(core: Core):
    running = [await core.worker(f"worker-{n}", ready=n == 0) for n in range(2)]
    await eventually(lambda: _shared(running))
    doors = [await core.gate() for _ in range(2)]
    sales = [await core.sale(20, shard=shard) for shard in range(16)]
    answers = await asyncio.gather(
        *(core.reserve(doors[n % 2], sale) for sale in sales for n in range(30))
    )
    assert Counter(a.code for a in answers) == {model.HELD: 320, model.SOLD_OUT: 160}


async def test_a_worker_killed_in_the_middle_loses_nothing(core: Core):
    first = await core.worker("first", worker_batch_max=40)
    gate = await core.gate(batch_max=20)
    sale = await core.sale(500)
    asked = [asyncio.create_task(core.reserve(gate, sale)) for _ in range(700)]
    await eventually(lambda: _some_committed(core, sale))
    await core.kill_worker(first)
    await core.worker("second", ready=False)
    answers = await asyncio.gather(*asked)
    assert Counter(a.code for a in answers) == {model.HELD: 500, model.SOLD_OUT: 200}
    assert await core.availability(sale) == (500, 500, 0)


@pytest.mark.parametrize("remembered_by", ["gate", "postgresql"])
async def test_one_key_a_hundred_times_at_once(core: Core, remembered_by: str):
    await core.worker()
    doors: list[Gate] = [await core.gate() for _ in range(2)]
    sale, member = await core.sale(50), new_id_bytes()
    if remembered_by == "postgresql":
        await core.reserve(doors[0], sale, member, key="only")
        await forget_keys(core.client)
    answers = await asyncio.gather(
        *(core.reserve(doors[n % 2], sale, member, 2 - 1, key="only") for n in range(100))
    )
    if remembered_by == "gate":
        assert len({answer._replace(replayed=True) for answer in answers}) == 1
        assert Counter(a.replayed for a in answers) == {True: 99, False: 1}
    else:
        assert {a.code for a in answers} == {model.KEY_KNOWN}
    assert len(await core.rows(sale)) == 1
    assert await core.availability(sale) == (50, 1, 0)


async def test_one_key_on_two_events_at_once_is_one_reservation(core: Core):
    """Two shards, two workers, two transactions: the unique index is where they meet."""
    running = [await core.worker(f"worker-{n}", ready=n == 0) for n in range(2)]
    await eventually(lambda: _shared(running))
    gate = await core.gate()
    pairs = [(await core.sale(5, shard=s), await core.sale(5, shard=15 - s)) for s in range(4)]
    for one, two in pairs:
        member = new_id_bytes()
        answers = await asyncio.gather(
            core.reserve(gate, one, member, key="k"), core.reserve(gate, two, member, key="k")
        )
        assert {a.code for a in answers} == {model.HELD, model.KEY_CONFLICT}


async def _shared(workers) -> bool:
    held = [set(worker.leases.held) for worker in workers]
    return sum(map(len, held)) == 16 == len(set().union(*held)) and all(held)


async def _some_committed(core: Core, sale) -> bool:
    return bool(await core.rows(sale))

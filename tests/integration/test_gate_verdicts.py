"""What a member is told: gate and worker together, on real servers."""

import asyncio

import pytest

from korder.domains.reservation import model
from korder.domains.reservation.gate import OVERLOADED, QUEUED
from korder.domains.reservation.record import KEYS
from korder.kernel.ids import new_id_bytes
from tests.core import eventually, forget_keys, request_of
from tests.reserving import Core


async def test_a_held_reservation_is_committed_when_it_is_answered(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(10, price=1500, hold_seconds=60)
    answer = await core.reserve(gate, sale, quantity=3)
    assert (answer.code, answer.amount, answer.replayed) == (model.HELD, 4500, False)
    assert answer.expires_us - answer.created_us == 60_000_000
    (row,) = await core.rows(sale)
    assert (row["id"].bytes, row["status"], row["quantity"]) == (answer.id, "held", 3)
    assert await core.availability(sale) == (10, 3, 0)


async def test_sold_out_is_said_by_the_gate_without_postgresql(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(2)
    answers = await asyncio.gather(*(core.reserve(gate, sale) for _ in range(5)))
    assert sorted(a.code for a in answers) == [b"H", b"H", b"S", b"S", b"S"]
    assert len(await core.rows(sale)) == 2


async def test_more_than_are_left_is_refused_and_fewer_still_fit(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(3)
    assert (await core.reserve(gate, sale, quantity=4)).code == model.SOLD_OUT
    assert (await core.reserve(gate, sale, quantity=3)).code == model.HELD


async def test_over_the_limit(core: Core):
    await core.worker()
    gate, sale, member = await core.gate(), await core.sale(9, max_per_member=2), new_id_bytes()
    assert (await core.reserve(gate, sale, member, 2)).code == model.HELD
    assert (await core.reserve(gate, sale, member, 1)).code == model.OVER_LIMIT
    assert (await core.reserve(gate, sale, quantity=2)).code == model.HELD


async def test_a_gate_that_is_not_loaded_refuses(core: Core):
    gate, sale = await core.gate(), await core.sale(5)
    assert (await core.reserve(gate, sale)).code == OVERLOADED
    await core.worker()
    assert (await core.reserve(gate, sale)).code == model.HELD


async def test_a_ticket_type_that_the_gate_does_not_know_is_overload_not_sold_out(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(5)
    answer = await core.reserve(gate, sale, type_raw=new_id_bytes())
    assert answer.code == OVERLOADED


async def test_past_the_bound_of_the_queue_the_gate_refuses(core: Core):
    steps = await core.steps()  # nobody works: what is accepted stays
    gate = await core.gate(queue_max=3, wait_budget_ms=200)
    sale = await core.sale(10)
    await steps.keeper.relay(steps.conn, steps.shards)
    answers = await asyncio.gather(*(core.reserve(gate, sale) for _ in range(5)))
    assert sorted(a.code for a in answers) == [QUEUED] * 3 + [OVERLOADED] * 2


@pytest.mark.parametrize("remembered_by", ["gate", "postgresql"])
async def test_the_same_key_is_the_same_reservation(core: Core, remembered_by: str):
    await core.worker()
    gate, sale, member = await core.gate(), await core.sale(5), new_id_bytes()
    first = await core.reserve(gate, sale, member, key="k1")
    if remembered_by == "postgresql":
        await forget_keys(core.client)
    second = await core.reserve(gate, sale, member, key="k1")
    if remembered_by == "gate":
        assert second == first._replace(replayed=True)
    else:
        assert second.code == model.KEY_KNOWN  # the API reads the row by its key
    assert len(await core.rows(sale)) == 1
    assert await core.availability(sale) == (5, 1, 0)


async def test_a_key_that_only_postgresql_remembers_can_be_repeated_again_and_again(core: Core):
    await core.worker()
    gate, sale, member = await core.gate(wait_budget_ms=1500), await core.sale(5), new_id_bytes()
    await core.reserve(gate, sale, member, key="k1")
    await forget_keys(core.client)
    codes = [(await core.reserve(gate, sale, member, key="k1")).code for _ in range(3)]
    assert codes == [model.KEY_KNOWN] * 3


@pytest.mark.parametrize("remembered_by", ["gate", "postgresql"])
async def test_the_same_key_for_another_request_is_a_conflict(core: Core, remembered_by: str):
    await core.worker()
    gate, sale, member = await core.gate(), await core.sale(5), new_id_bytes()
    await core.reserve(gate, sale, member, 1, key="k1")
    if remembered_by == "postgresql":
        await forget_keys(core.client)
    assert (await core.reserve(gate, sale, member, 2, key="k1")).code == model.KEY_CONFLICT
    # The rightful owner of the key is answered as before.
    again = await core.reserve(gate, sale, member, 1, key="k1")
    assert again.code in (model.HELD, model.KEY_KNOWN)
    assert len(await core.rows(sale)) == 1


async def test_keys_of_two_members_do_not_meet(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(5)
    answers = [await core.reserve(gate, sale, key="same") for _ in range(2)]
    assert [a.code for a in answers] == [model.HELD, model.HELD]


async def test_a_refusal_is_remembered_with_its_key(core: Core):
    await core.worker()
    gate, sale, member = await core.gate(), await core.sale(1), new_id_bytes()
    holder = await core.reserve(gate, sale)
    first = await core.reserve(gate, sale, member, key="k")
    await core.pool.execute("UPDATE reservations.reservations SET expires_at = now()")
    await eventually(lambda: _free(core, sale))
    second = await core.reserve(gate, sale, member, key="k")
    assert (holder.code, first.code, second.code) == (b"H", b"S", b"S")
    assert second.replayed


async def test_respond_async_answers_at_once_and_is_decided_later(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(5)
    request = request_of(sale.type_raw)
    answer = await core.submit(gate, sale, request, respond_async=True)
    assert answer.code == QUEUED
    assert answer.id == request.id
    await eventually(lambda: _exists(core, sale))
    await eventually(lambda: _not_pending(gate, request.id))


async def test_past_the_wait_budget_the_answer_is_queued_and_the_verdict_still_comes(core: Core):
    steps = await core.steps()
    sale = await core.sale(5)
    await steps.keeper.relay(steps.conn, steps.shards)
    gate = await core.gate(wait_budget_ms=100)
    request = request_of(sale.type_raw)
    answer = await core.submit(gate, sale, request)
    assert answer.code == QUEUED
    assert gate.pending(request.id)
    await steps.work()
    await eventually(lambda: _not_pending(gate, request.id))
    (row,) = await core.rows(sale)
    assert row["status"] == "held"


async def test_what_the_gate_admitted_too_many_postgresql_refuses_and_keeps(core: Core):
    await core.worker(reconcile_interval_ms=60_000)
    gate, sale, member = await core.gate(), await core.sale(2, max_per_member=2), new_id_bytes()
    keys = await _raise_stock(core, sale, 100)
    answers = [await core.reserve(gate, sale) for _ in range(2)]
    refused = await core.reserve(gate, sale, member, key="k")
    assert [a.code for a in answers] == [model.HELD] * 2
    assert refused.code == model.SOLD_OUT
    rows = {row["id"].bytes: row for row in await core.rows(sale)}
    assert (rows[refused.id]["status"], rows[refused.id]["reason"]) == ("rejected", "sold_out")
    assert (await core.reserve(gate, sale, member, key="k")).id == refused.id
    # Its allowance came back with the refusal.
    assert not await core.client.hget(keys.allowance, member + sale.type_raw)
    await core.client.hset(keys.stock, sale.type_raw, 0)


async def test_an_allowance_that_the_gate_forgot_is_kept_by_postgresql(core: Core):
    await core.worker()
    gate, sale, member = await core.gate(), await core.sale(9, max_per_member=1), new_id_bytes()
    await core.reserve(gate, sale, member)
    await core.client.delete((await _raise_stock(core, sale, 8)).allowance)
    refused = await core.reserve(gate, sale, member)
    assert refused.code == model.OVER_LIMIT
    reasons = {row["reason"] for row in await core.rows(sale)}
    assert reasons == {None, "limit_exceeded"}


@pytest.mark.parametrize(
    ("window", "code"),
    [({"opens_in_s": 60}, b"N"), ({"closes_in_s": -1, "opens_in_s": -60}, b"X")],
)
async def test_the_window_is_postgresqls_clock(core: Core, window: dict[str, float], code: bytes):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(5, **window)
    assert (await core.reserve(gate, sale)).code == code
    (row,) = await core.rows(sale)
    assert row["reason"] == model.REASONS[code].value


async def test_two_ticket_types_in_one_batch(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(1, 2)
    one, two = sale.types_raw
    asked = [one, two, one, two, two]
    answers = await asyncio.gather(*(core.reserve(gate, sale, type_raw=t) for t in asked))
    assert [a.code for a in answers] == [b"H", b"H", b"S", b"H", b"S"]


async def _raise_stock(core: Core, sale, stock: int):
    await core.client.hset(KEYS[sale.shard].stock, sale.type_raw, stock)
    return KEYS[sale.shard]


async def _free(core: Core, sale) -> bool:
    return (await core.availability(sale))[1] == 0


async def _exists(core: Core, sale) -> bool:
    return bool(await core.rows(sale))


async def _not_pending(gate, rid: bytes) -> bool:
    return not gate.pending(rid)

"""A member's allowance after a crash: counted once, however often its request was submitted.

The storm of crashes found it: a member held 19 of 20 tickets and could never buy the last one,
because the gate had counted one of them twice, in its rebuild and as it was submitted again.
"""

import asyncio

import pytest

from korder.domains.reservation import model
from korder.domains.reservation.gate import Gate
from korder.domains.reservation.worker import Worker
from korder.kernel.ids import new_id_bytes
from korder.platform.valkey import Client
from tests.core import Steps
from tests.factories import OnSale
from tests.reserving import Core

pytestmark = pytest.mark.crash


async def committed_and_not_settled(core: Core, worker: Worker) -> asyncio.Event:
    """The worker will commit the next batch and never get to the settlement."""
    committed = asyncio.Event()

    async def never(_):
        committed.set()
        await asyncio.Event().wait()

    worker._gate.settle = never
    return committed


async def test_a_hold_that_the_rebuilt_gate_knows_is_not_counted_again(core: Core, valkey: Client):
    worker = await core.worker("first")
    gate, sale, member = await core.gate(), await core.sale(9, max_per_member=2), new_id_bytes()
    committed = await committed_and_not_settled(core, worker)
    asked = asyncio.create_task(core.reserve(gate, sale, member, key="one"))
    await committed.wait()
    await core.kill_worker(worker)
    await valkey.flushall()
    await core.worker("second")
    assert (await asked).code == model.HELD  # submitted again, with the same id
    await buys_exactly_one_more(core, valkey, gate, sale, member)


async def test_a_call_without_an_answer_is_not_counted_again(core: Core, valkey: Client):
    """It arrived, was decided, and the connection broke before the gate's answer."""
    worker = await core.worker("first")
    gate, sale, member = await core.gate(), await core.sale(9, max_per_member=2), new_id_bytes()
    committed = await committed_and_not_settled(core, worker)
    call = gate._functions.call

    async def broken_after(function, keys, *args):
        await call(function, keys, *args)
        gate._functions.call = call
        await committed.wait()
        await core.kill_worker(worker)
        await valkey.flushall()
        await core.worker("second")
        raise ConnectionResetError

    gate._functions.call = broken_after
    answer = await core.reserve(gate, sale, member, key="one")
    assert answer.code == model.HELD
    await buys_exactly_one_more(core, valkey, gate, sale, member)


async def buys_exactly_one_more(
    core: Core, valkey: Client, gate: Gate, sale: OnSale, member: bytes
) -> None:
    allowance = await Steps(None, valkey).allowance(sale.shard, member, sale.type_raw)
    assert allowance == 1
    assert (await core.reserve(gate, sale, member, key="two")).code == model.HELD
    assert (await core.reserve(gate, sale, member, key="three")).code == model.OVER_LIMIT
    assert await core.availability(sale) == (9, 2, 0)

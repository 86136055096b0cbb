"""Shards change hands all the time while a crowd reserves: cleanly, by death, and by pause."""

import asyncio
import random

from korder.domains.reservation import model
from korder.domains.reservation.gate import OVERLOADED, QUEUED
from korder.kernel.ids import new_id_bytes
from tests.core import eventually
from tests.reserving import Core

ROUNDS = 8
CROWD = 240


async def test_nothing_is_lost_or_stuck_while_leases_move(core: Core):
    dice = random.Random(7)  # noqa: S311 - a repeatable order
    workers = [await core.worker("w0", lease_ms=600)]
    gates = [await core.gate(wait_budget_ms=8000) for _ in range(2)]
    sales = [await core.sale(50, max_per_member=1, shard=shard) for shard in (1, 6, 11, 15)]
    told: list[bytes] = []

    async def member(number: int) -> None:
        await asyncio.sleep(dice.random() * 3)
        me, sale = new_id_bytes(), sales[number % len(sales)]
        while True:
            answer = await core.reserve(gates[number % 2], sale, me, key="once")
            if answer.code != OVERLOADED:
                told.append(answer.code)
                return
            await asyncio.sleep(0.05)

    async def hands() -> None:
        for number in range(1, ROUNDS + 1):
            workers.append(await core.worker(f"w{number}", ready=False, lease_ms=600))
            await asyncio.sleep(0.2 + dice.random() / 4)
            victim = workers.pop(dice.randrange(len(workers) - 1))
            await (core.kill_worker if number % 2 else core.stop_worker)(victim)

    await asyncio.gather(hands(), *(member(number) for number in range(CROWD)))
    assert len(told) == CROWD
    assert set(told) <= {model.HELD, model.SOLD_OUT, QUEUED}

    async def all_sold() -> bool:
        return all(
            [
                (
                    await core.pool.fetchval(
                        "SELECT held FROM reservations.inventory WHERE ticket_type_id = $1",
                        sale.type_id,
                    )
                )
                == 50
                for sale in sales
            ]
        )

    await eventually(all_sold)
    assert told.count(model.HELD) + told.count(QUEUED) >= 200

"""How a rush goes on after a crash, and what must hold when it is over."""

import asyncio
import json
import time
from collections import Counter
from uuid import UUID

import asyncpg

from korder.rush.stage import Api, Stage, make_event
from tests.crash.crowd import Crowd, Member, Purchase, Shopper, replayed
from tests.crash.running import Up, korder

#: The issue's bound on the time from a crash to the next sale.
SELLS_AGAIN_S = 10.0
#: After it the gate has been compared with the truth at least once (every 3 s).
WHOLE_AGAIN_S = 10.0
#: What a purchase counts on its way to the final answer.
COUNTS = ("broken", "refused", "queued")


async def on_sale(
    system: Up, organizer: str, *capacities: int, max_per_member: int | None = None
) -> list[Stage]:
    api = Api(system.base_url, organizer)
    try:
        return [
            await make_event(
                api, tickets=tickets, max_per_member=max_per_member, title="After the storm"
            )
            for tickets in capacities
        ]
    finally:
        api.close()


async def sells_again(system: Up, probe: Stage, member: Member, killed_at: float) -> float:
    """Seconds from the crash to the 201 of a request that was first made after it."""
    shopper = Shopper(system.base_url, probe, member)
    purchase = await shopper.buy()
    shopper.close()
    assert purchase.status == 201, purchase
    return purchase.answered - killed_at


def fresh(crowd: Crowd, killed_at: float) -> list[Purchase]:
    return [purchase for purchase in crowd.held if purchase.began > killed_at]


def summary(crash: str, capacity: int, sold_again_s: float, purchases: list[Purchase]) -> str:
    kinds = Counter(purchase.code or str(purchase.status) for purchase in purchases)
    slowest = max(purchase.answered - purchase.began for purchase in purchases)
    counts = {name: sum(getattr(p, name) for p in purchases) for name in COUNTS}
    return (
        f"{crash:26} capacity {capacity:5}: sold again after {sold_again_s:5.2f} s,"
        f" slowest answer {slowest:5.2f} s, {dict(kinds)}, {counts}"
    )


def everybody_was_answered(purchases: list[Purchase]) -> None:
    """201, or sold out: nothing else is an answer here, and nobody waited in vain."""
    odd = [p for p in purchases if not p.held and p.code != "sold_out"]
    assert not odd, odd[:3]


async def every_answer_is_kept(
    system: Up, stage: Stage, purchases: list[Purchase], *, gate_lost: bool = False
) -> None:
    """The same key again: the same reservation, or still none.

    With `gate_lost` a 202 may have named an id that went down with the gate, if its client did
    not wait for it but asked again.
    """
    again = await replayed(system.base_url, stage, purchases)
    pairs = list(zip(purchases, again, strict=True))
    changed = [(a, b) for a, b in pairs if (a.status, a.id) != (b.status, b.id)]
    assert not changed, (len(changed), changed[:3])
    # Neither an earlier 202 nor a later repetition named another one.
    two_faced = [a for a, b in pairs if len(a.ids | b.ids) > 1 and not (gate_lost and a.queued)]
    assert not two_faced, (len(two_faced), two_faced[:3])


async def buy_out(
    system: Up, stage: Stage, members: list[Member], killed_at: float
) -> list[Purchase]:
    """Buy what is left. Nothing may stay behind that nobody can buy."""
    bought: list[Purchase] = []
    deadline = killed_at + SELLS_AGAIN_S + WHOLE_AGAIN_S
    while True:
        crowd = Crowd(system.base_url, stage, members[:50])
        await crowd.buy_out()
        bought += crowd.purchases
        everybody_was_answered(crowd.purchases)
        conn = await asyncpg.connect(system.database_url)
        left = await conn.fetchval(
            "SELECT capacity - held - sold FROM reservations.inventory WHERE ticket_type_id = $1",
            stage.ticket_type_id,
        )
        await conn.close()
        if left == 0:
            return bought
        assert left > 0, f"oversold by {-left}"
        assert time.monotonic() < deadline, f"{left} tickets are left and cannot be bought"
        await asyncio.sleep(0.25)  # until the gate is next compared with the truth


async def the_database_agrees(
    system: Up, stage: Stage, purchases: list[Purchase], *, sold: int
) -> None:
    """What was told is what is there: each 201 exists, and nothing is held that nobody knows of."""
    conn = await asyncpg.connect(system.database_url)
    try:
        rows = await conn.fetch(
            "SELECT id, member_id, quantity, status::text FROM reservations.reservations"
            " WHERE ticket_type_id = $1 AND status <> 'rejected'",
            stage.ticket_type_id,
        )
    finally:
        await conn.close()
    there = {UUID(str(row["id"])): (UUID(str(row["member_id"])), row["status"]) for row in rows}
    told = {purchase.id: (purchase.member, "held") for purchase in purchases if purchase.held}
    assert len(told) == sum(purchase.held for purchase in purchases), "two keys share one answer"
    lost = {id_: owner for id_, owner in told.items() if there.get(id_) != owner}
    assert not lost, (
        f"{len(lost)} acknowledged reservations are not there: {list(lost.items())[:3]}"
    )
    unknown = there.keys() - told.keys()
    assert not unknown, f"{len(unknown)} are held and nobody was told: {list(unknown)[:3]}"
    assert {row["quantity"] for row in rows} == {1}
    assert len(rows) == sold, "undersold"


async def the_audit_is_clean(system: Up) -> None:
    status, out, err = await korder("audit", "--json", "--data-dir", str(system.data_dir))
    assert status == 0, out + err
    told = json.loads(out)
    assert told["ok"], told
    assert told["judged_running"], told

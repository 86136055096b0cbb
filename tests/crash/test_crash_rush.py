"""kill -9 in the middle of a rush: it sells again by itself, and not a ticket is lost or doubled.

Every case runs against one whole system with two API processes. The capacity is larger than the
demand (the rush goes on through the crash) or smaller (it is sold out in the middle of it).
The measured times: pytest tests/crash -o log_cli_level=INFO
"""

import asyncio
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

import asyncpg
import psutil
import pytest
import pytest_asyncio

from korder.cli.rush_cast import Cast, cast
from korder.platform.valkey import connect
from korder.rush.stage import Api, Stage, make_event
from korder.settings import Settings
from tests.crash.crowd import Crowd, Member, Purchase, Shopper, replayed
from tests.crash.running import Up, alive, eventually, korder, up

pytestmark = pytest.mark.crash

MEMBERS = 200
#: 200 shoppers ask at most 4,000 times a second: the rush outlasts the crash, not the machine.
PAUSE_S = 0.05
#: The crash comes when this many have been sold; the rush ends when as many were sold after it.
SOLD_BEFORE = SOLD_AFTER = 300
LARGE, SMALL = 6000, 600
#: The issue's bound on the time from the crash to the next sale.
SELLS_AGAIN_S = 10.0
#: Then the gate has been compared with the truth at least once (every 3 s).
WHOLE_AGAIN_S = 10.0

log = logging.getLogger(__name__)

MARKER = b"korder-test:marker"


class Hall(NamedTuple):
    """A running system with its people."""

    system: Up
    cast: Cast


@pytest_asyncio.fixture(scope="module")
async def hall() -> AsyncIterator[Hall]:
    async with up("--api-processes", "2") as system:
        people = await cast(system.database_url, Settings(), MEMBERS + 1)
        yield Hall(system, people)


# -- what dies


async def worker(system: Up) -> None:
    await kill_child(system, "worker-1")


async def api_process(system: Up) -> None:
    """The one with more connections: the kernel hands them out as it likes."""
    connections = {
        name: len(system.child(name).net_connections("tcp")) for name in ("api-1", "api-2")
    }
    await kill_child(system, max(connections, key=lambda name: connections[name]))


async def valkey_with_its_data(system: Up) -> None:
    client = connect(system.valkey_url)
    await client.set(MARKER, b"1")
    await client.aclose()
    await kill_child(system, "valkey")
    assert await marker(system), "the data was to be kept"


async def valkey_without_its_data(system: Up) -> None:
    client = connect(system.valkey_url)
    await client.set(MARKER, b"1")
    await client.aclose()
    # It goes on writing to files that nobody will find again.
    shutil.rmtree(system.data_dir / "valkey" / "appendonlydir")
    await kill_child(system, "valkey")
    assert not await marker(system), "the data was to be lost"


async def postgres_and_its_backends(system: Up) -> None:
    postmaster = system.child("postgres")
    backends = postmaster.children(recursive=True)
    await kill_child(system, "postgres", *backends)


async def postmaster_alone(system: Up) -> None:
    await kill_child(system, "postgres")


async def supervisor(system: Up) -> None:
    """With all its children; a new one is started at once, as an init system would."""
    family = system.family()
    psutil.Process(system.pid).kill()
    await system.ended()
    await system.start()
    left = alive(family)
    assert not left, f"outlived the supervisor: {left}"


async def kill_child(system: Up, name: str, *others: psutil.Process) -> None:
    """kill -9; returns when the supervisor has started its successor."""
    child = system.child(name)
    for process in (child, *others):
        process.kill()
    await system.respawned(name, child.pid)


async def marker(system: Up) -> bool:
    client = connect(system.valkey_url)
    try:

        async def there() -> list[bool]:
            try:
                return [await client.get(MARKER) is not None]
            except Exception:
                return []

        found = await eventually(there, "Valkey answers")
        await client.delete(MARKER)
        return bool(found[0])
    finally:
        await client.aclose()


CRASHES = [
    worker,
    api_process,
    valkey_with_its_data,
    valkey_without_its_data,
    postgres_and_its_backends,
    postmaster_alone,
    supervisor,
]


@pytest.mark.parametrize("capacity", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.__name__)
async def test_after_a_kill_it_sells_on_and_every_ticket_is_accounted_for(
    hall: Hall, crash: Callable[[Up], Awaitable[None]], capacity: int
):
    system, (organizer, members) = hall
    stage, probe = await on_sale(system, organizer, capacity, 10_000)
    crowd = Crowd(system.base_url, stage, members[:MEMBERS])
    crowd.start(pause_s=PAUSE_S)
    await eventually(lambda: len(crowd.held) >= SOLD_BEFORE, "the rush has begun")

    killed_at = time.monotonic()
    await crash(system)
    sold_again_s = await sells_again(system, probe, members[MEMBERS], killed_at)
    if capacity == LARGE:
        # The same sale, to a request that did not know of the crash.
        await eventually(
            lambda: len(fresh(crowd, killed_at)) >= SOLD_AFTER, "the rush sells on", SELLS_AGAIN_S
        )
        first = min(purchase.answered for purchase in fresh(crowd, killed_at)) - killed_at
        sold_again_s = max(sold_again_s, first)
    await crowd.stop()
    log.info(summary(crash.__name__, capacity, sold_again_s, crowd.purchases))

    everybody_was_answered(crowd.purchases)
    await every_answer_is_kept(system, stage, crowd.purchases)
    bought = await buy_out(system, stage, members, killed_at)
    all_purchases = [*crowd.purchases, *bought]
    await the_database_agrees(system, stage, all_purchases)
    await the_audit_is_clean(system)
    assert sold_again_s <= SELLS_AGAIN_S


# -- how it goes on


async def on_sale(system: Up, organizer: str, *capacities: int) -> list[Stage]:
    api = Api(system.base_url, organizer)
    try:
        return [
            await make_event(api, tickets=tickets, max_per_member=None, title="After the storm")
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


COUNTS = ("broken", "refused", "queued")


def everybody_was_answered(purchases: list[Purchase]) -> None:
    """201, or sold out: nothing else is an answer here, and nobody waited in vain."""
    odd = [p for p in purchases if not p.held and p.code != "sold_out"]
    assert not odd, odd[:3]


async def every_answer_is_kept(system: Up, stage: Stage, purchases: list[Purchase]) -> None:
    """The same key again: the same reservation."""
    held = [purchase for purchase in purchases if purchase.held]
    touched = [p for p in held if p.broken or p.refused or p.queued]
    sample = touched + held[:: max(1, len(held) // 200)]
    again = await replayed(system.base_url, stage, sample)
    changed = [(a, b) for a, b in zip(sample, again, strict=True) if a.id != b.id]
    assert not changed, changed[:3]


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


async def the_database_agrees(system: Up, stage: Stage, purchases: list[Purchase]) -> None:
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
    assert len(rows) == stage.capacity, "undersold"


async def the_audit_is_clean(system: Up) -> None:
    status, out, err = await korder("audit", "--json", "--data-dir", str(system.data_dir))
    assert status == 0, out + err
    told = json.loads(out)
    assert told["ok"], told
    assert told["judged_running"], told

"""kill -9 in the middle of a rush: it sells again by itself, and not a ticket is lost or doubled.

Every case runs against one whole system with two API processes. The capacity is larger than the
demand (the rush goes on through the crash) or smaller (it is sold out in the middle of it).
The measured times: pytest tests/crash -o log_cli_level=INFO
"""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from korder.kernel.ids import new_id
from tests.crash import checks
from tests.crash.checks import SELLS_AGAIN_S
from tests.crash.conftest import Hall
from tests.crash.crashes import CRASHES
from tests.crash.crowd import Crowd
from tests.crash.running import Up, eventually

pytestmark = pytest.mark.crash

#: 200 shoppers ask at most 4,000 times a second: the rush outlasts the crash, not the machine.
PAUSE_S = 0.05
#: The crash comes when this many have been sold; the rush ends when as many were sold after it.
SOLD_BEFORE = SOLD_AFTER = 300
LARGE, SMALL = 6000, 600

log = logging.getLogger(__name__)


@pytest.mark.parametrize("capacity", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("crash", CRASHES, ids=lambda crash: crash.__name__)
async def test_after_a_kill_it_sells_on_and_every_ticket_is_accounted_for(
    hall: Hall, crash: Callable[[Up], Awaitable[None]], capacity: int
):
    system, organizer, members, watcher = hall
    stage, probe = await checks.on_sale(system, organizer, capacity, 10_000)
    crowd = Crowd(system.base_url, stage, members)
    crowd.start(pause_s=PAUSE_S)
    await eventually(lambda: len(crowd.held) >= SOLD_BEFORE, "the rush has begun")

    killed_at = time.monotonic()
    await crash(system)
    sold_again_s = await checks.sells_again(system, probe, watcher, killed_at)
    if capacity == LARGE:
        # The same sale, to a request that did not know of the crash.
        await eventually(
            lambda: len(checks.fresh(crowd, killed_at)) >= SOLD_AFTER,
            "the rush sells on",
            SELLS_AGAIN_S,
        )
        first = min(purchase.answered for purchase in checks.fresh(crowd, killed_at)) - killed_at
        sold_again_s = max(sold_again_s, first)
    await crowd.stop()
    log.info(checks.summary(crash.__name__, capacity, sold_again_s, crowd.purchases))

    checks.everybody_was_answered(crowd.purchases)
    bought = await checks.buy_out(system, stage, members, killed_at)
    await checks.every_answer_is_kept(system, stage, crowd.purchases)
    everything = [*crowd.purchases, *bought]
    await checks.the_database_agrees(system, stage, everything, sold=capacity)
    await checks.the_audit_is_clean(system)
    assert sold_again_s <= SELLS_AGAIN_S


async def test_the_checks_see_what_they_are_for(hall: Hall):
    """Negative controls: a lost 201, a hold that nobody knows of, a ticket that was not sold."""
    system, organizer, _, watcher = hall
    (stage,) = await checks.on_sale(system, organizer, 3)
    crowd = Crowd(system.base_url, stage, [watcher])
    await crowd.buy_out()
    told = crowd.purchases
    await checks.the_database_agrees(system, stage, told, sold=3)
    lost = replace(told[0], id=new_id(), key="never sent")
    with pytest.raises(AssertionError, match="are not there"):
        await checks.the_database_agrees(system, stage, [*told, lost], sold=3)
    with pytest.raises(AssertionError, match="nobody was told"):
        await checks.the_database_agrees(system, stage, told[1:], sold=3)
    with pytest.raises(AssertionError, match="undersold"):
        await checks.the_database_agrees(system, stage, told, sold=4)
    with pytest.raises(AssertionError, match="never sent"):
        await checks.every_answer_is_kept(system, stage, [lost])

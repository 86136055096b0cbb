"""A connection that broke in the middle of an answer says odd things before it says "closed".

The storm of crashes found it: the worker took asyncpg's InternalClientError for a fault of the
entries, which after three of those would have been buried as dead letters.
"""

import asyncpg
import pytest

from korder.domains.reservation import model
from korder.domains.reservation.batch import decide_batch
from korder.domains.reservation.record import KEYS
from tests.reserving import Core

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("error", [asyncpg.InternalClientError, asyncpg.InterfaceError])
async def test_a_stuck_connection_is_replaced_and_nothing_is_buried(
    core: Core, error, monkeypatch: pytest.MonkeyPatch
):
    worker, gate, sale = await core.worker(), await core.gate(), await core.sale(3)
    stuck = worker._conn
    assert stuck is not None

    async def decide(conn, *args, **options):
        if conn is stuck:  # for ever: it never gets to say "closed"
            raise error("cannot perform operation: another operation is in progress")
        return await decide_batch(conn, *args, **options)

    monkeypatch.setattr("korder.domains.reservation.worker.decide_batch", decide)
    answers = [await core.reserve(gate, sale, key=str(n)) for n in range(3)]
    assert [answer.code for answer in answers] == [model.HELD] * 3
    assert worker._conn is not stuck
    assert await core.client.xlen(KEYS[sale.shard].dead) == 0

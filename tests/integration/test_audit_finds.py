"""The audit against data broken on purpose: each invariant has a case that only it finds."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from korder.cli.audit import audit_servers, run_audit
from korder.domains.reservation import model
from korder.domains.reservation.gate_invariants import check_gate
from korder.domains.reservation.invariants import Acknowledged, check, check_acknowledged, taken
from korder.domains.reservation.record import KEYS
from korder.kernel.audit import Finding
from korder.kernel.ids import new_id, new_id_bytes
from tests.core import request_of
from tests.factories import OnSale
from tests.reserving import Core

#: Long enough for a worker that relays every 10 ms, short for what never becomes right.
PATIENCE_S = 0.6


@pytest.fixture
async def sold(core: Core) -> OnSale:
    """Three of five tickets held, by two members of whom each may have two."""
    await core.worker()
    gate, sale = await core.gate(), await core.sale(5, max_per_member=2)
    first, second = new_id_bytes(), new_id_bytes()
    for member, key in ((first, "a"), (first, "b"), (second, "c")):
        assert (await core.reserve(gate, sale, member, 1, key)).code == model.HELD
    return sale


async def found(core: Core) -> list[str]:
    """Names of the invariants that do not hold in PostgreSQL."""
    async with core.pool.acquire() as conn:
        return broken(await check(conn, sweep_interval_ms=50))


def broken(findings: Sequence[Finding]) -> list[str]:
    for finding in findings:
        assert finding.ok or finding.examples, finding
    return [finding.name for finding in findings if not finding.ok]


async def at_the_gate(core: Core) -> list[str]:
    async with core.pool.acquire() as conn:
        return broken(await check_gate(conn, core.client, patience_s=PATIENCE_S))


async def test_a_clean_system_is_clean_and_everything_was_looked_at(core: Core, sold: OnSale):
    async with core.pool.acquire() as conn:
        findings = await check(conn, sweep_interval_ms=50)
    assert broken(findings) == []
    assert {f.name: f.checked for f in findings} == {
        "held and sold are the sums of the reservations, within capacity": 1,
        "no member has more than allowed": 2,
        "one key, one reservation": 3,
        "every reservation is in a state of the model": 3,
        "no hold outlives its deadline": 3,
    }
    assert await at_the_gate(core) == []
    findings = await run_audit(core.settings.database_url, core.settings.valkey_url, core.settings)
    assert broken(findings) == []
    assert {f.invariant for f in findings} >= {1, 2, 3, 5, 6, 7}


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE reservations.inventory SET held = held - 1",
        "UPDATE reservations.inventory SET sold = sold + 1",
        "UPDATE reservations.reservations SET quantity = 2 WHERE id ="
        " (SELECT min(id::text)::uuid FROM reservations.reservations)",
        "UPDATE reservations.reservations SET ticket_type_id = gen_random_uuid() WHERE id ="
        " (SELECT min(id::text)::uuid FROM reservations.reservations)",
    ],
)
async def test_1_counters_that_are_not_the_sums(core: Core, sold: OnSale, sql: str):
    core.skip_audit = "broken on purpose"
    await core.pool.execute(sql)
    assert "held and sold are the sums of the reservations, within capacity" in await found(core)


async def test_2_a_member_with_too_many(core: Core, sold: OnSale):
    core.skip_audit = "broken on purpose"
    await core.pool.execute("UPDATE reservations.inventory SET limit_ceiling = 1")
    assert await found(core) == ["no member has more than allowed"]


async def test_2_a_lower_limit_does_not_take_tickets_away(core: Core, sold: OnSale):
    await core.pool.execute("UPDATE reservations.inventory SET max_per_member = 1")
    assert await found(core) == []


async def test_3_a_key_that_decided_twice(core: Core, sold: OnSale):
    core.skip_audit = "broken on purpose"
    definition = await core.pool.fetchval(
        "SELECT pg_get_indexdef('reservations.reservations_one_per_key'::regclass)"
    )
    await core.pool.execute("DROP INDEX reservations.reservations_one_per_key")
    try:
        await core.pool.execute(
            "UPDATE reservations.reservations SET member_id = $1, idempotency_key = $2",
            new_id(),
            b"k" * 16,
        )
        assert "one key, one reservation" in await found(core)
    finally:
        await core.pool.execute("TRUNCATE reservations.reservations")
        await core.pool.execute(definition)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE reservations.reservations SET status = 'rejected'",
        "UPDATE reservations.reservations SET reason = 'sold_out'",
        "UPDATE reservations.reservations SET event_id = gen_random_uuid()",
    ],
)
async def test_5_a_reservation_that_contradicts_itself(core: Core, sold: OnSale, sql: str):
    core.skip_audit = "broken on purpose"
    await core.pool.execute(sql)
    assert "every reservation is in a state of the model" in await found(core)


async def test_5_a_hold_past_its_deadline(core: Core, sold: OnSale):
    core.skip_audit = "broken on purpose"
    for worker in list(core._workers):
        await core.stop_worker(worker)
    await core.pool.execute(
        "UPDATE reservations.reservations SET created_at = now() - interval '1 hour',"
        " expires_at = now() - interval '3 seconds'"
    )
    assert "no hold outlives its deadline" in await found(core)
    # Without a worker that is nobody's fault.
    async with core.pool.acquire() as conn:
        judged = await check(conn, sweep_interval_ms=50, sweeping=False)
    assert "no hold outlives its deadline" not in [finding.name for finding in judged]


async def test_4_an_acknowledged_reservation_that_does_not_exist(core: Core, sold: OnSale):
    rows = await core.rows(sold)
    told = [Acknowledged(row["id"], row["member_id"], row["quantity"]) for row in rows]
    async with core.pool.acquire() as conn:
        assert (await check_acknowledged(conn, sold.type_id, told)).ok
        wrong = [
            told[0]._replace(id=new_id()),
            told[1]._replace(member_id=new_id()),
            told[2]._replace(quantity=9),
        ]
        finding = await check_acknowledged(conn, sold.type_id, wrong)
        assert (finding.checked, finding.failed) == (3, 3)
        twice = await check_acknowledged(conn, sold.type_id, [told[0], told[0]])
        assert twice.failed == 1
        counts = await taken(conn, sold.type_id, [told[0].member_id])
        assert (counts.capacity, counts.taken) == (5, 3)
        with pytest.raises(LookupError):
            await taken(conn, new_id(), [])


@pytest.mark.parametrize("stock", [b"1", b"3", None])
async def test_6_a_gate_that_drifted_and_is_not_repaired(
    core: Core, sold: OnSale, stock: bytes | None
):
    core.skip_audit = "nobody repairs"
    for worker in list(core._workers):
        await core.stop_worker(worker)
    key = KEYS[sold.shard].stock
    if stock is None:
        await core.client.hdel(key, sold.type_raw)
    else:
        await core.client.hset(key, sold.type_raw, stock)
    assert await at_the_gate(core) == ["the gate has exactly what is left"]


async def test_6_a_drift_that_is_repaired_in_time_is_none(core: Core, sold: OnSale):
    await core.client.hset(KEYS[sold.shard].stock, sold.type_raw, 1)
    assert await at_the_gate(core) == []


async def test_5_requests_that_nobody_decides(core: Core, sold: OnSale):
    gate = core._gates[0]
    for worker in list(core._workers):
        await core.stop_worker(worker)
    waiting = asyncio.create_task(core.reserve(gate, sold))
    await asyncio.sleep(0.1)
    assert await at_the_gate(core) == ["nothing stays queued"]
    await core.worker("second")
    assert (await waiting).code == model.HELD
    assert await at_the_gate(core) == []


async def test_5_dead_letters_and_a_gate_that_is_closed(core: Core, sold: OnSale):
    core.skip_audit = "nobody repairs"
    for worker in list(core._workers):
        await core.stop_worker(worker)
    await core.client.xadd(KEYS[3].dead, {b"id": b"1-0", b"b": b"", b"a": b""})
    await core.client.delete(KEYS[sold.shard].meta)
    assert await at_the_gate(core) == ["nothing stays queued", "no dead letters"]


async def test_6_releases_that_nobody_relays(core: Core, sold: OnSale):
    for worker in list(core._workers):
        await core.stop_worker(worker)
    row = (await core.rows(sold))[0]
    await core.service().cancel(row["member_id"], row["id"])
    names = await at_the_gate(core)
    assert names == [
        "every release reaches the gate",
        "the gate has exactly what is left",
        "no allowance at the gate is too high",
    ]


async def test_the_gate_is_judged_rightly_while_it_sells(core: Core):
    await core.worker()
    gate, sale = await core.gate(), await core.sale(100_000)
    stop = asyncio.Event()

    async def buy() -> None:
        while not stop.is_set():
            request = request_of(sale.type_raw)
            await core.submit(gate, sale, request)

    buyers = [asyncio.create_task(buy()) for _ in range(20)]
    try:
        async with core.pool.acquire() as conn:
            findings = await check_gate(conn, core.client, patience_s=3.0)
        assert broken(findings) == []
        checked = {finding.name: finding.checked for finding in findings}
        assert checked["the gate has exactly what is left"] == 1
    finally:
        stop.set()
        await asyncio.gather(*buyers)


async def test_without_a_worker_only_the_rows_are_judged(core: Core, sold: OnSale):
    urls = core.settings.database_url, core.settings.valkey_url
    judged = await audit_servers(*urls, core.settings, running=True)
    assert judged.judged_running
    for worker in list(core._workers):
        await core.stop_worker(worker)
    judged = await audit_servers(*urls, core.settings, running=True)
    assert judged.ok
    assert not judged.judged_running
    assert UUID(bytes=sold.type_raw) == sold.type_id

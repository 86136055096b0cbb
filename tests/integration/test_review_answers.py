"""The answers of POST /v1/reservations when the gate's memory and PostgreSQL's differ."""

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace
from uuid import UUID

import pytest
from redis.exceptions import ResponseError

from korder.domains.reservation import model
from korder.domains.reservation.gate import QUEUED
from korder.domains.reservation.hot import ReserveRoutes
from korder.domains.reservation.record import REQUEST
from korder.domains.reservation.snapshots import Snapshots
from korder.kernel.errors import Refusal
from korder.kernel.ids import new_id
from korder.platform.auth import Principal
from korder.platform.http.edge import Call
from tests.core import eventually, forget_keys, request_of
from tests.factories import OnSale
from tests.reserving import Core


class Door:
    """One API process's route without HTTP; a member is whoever the authorization header names."""

    def __init__(self, core: Core, gate, sale: OnSale) -> None:
        self.core, self.gate, self.sale = core, gate, sale
        self.service = core.service()
        self.routes = ReserveRoutes(self, Snapshots(core.pool), gate, self.service)

    def cached(self, authorization: bytes) -> Principal:
        member = UUID(authorization.decode())
        return Principal(member, member.bytes, member, 0.0)

    authenticate = cached

    async def authenticate_fresh(self, authorization: bytes) -> Principal:
        return self.cached(authorization)

    async def post(self, member: UUID, quantity: int = 1, **headers: str):
        """Status, body and headers of one request; headers as keywords."""
        body = {
            "event_id": str(self.sale.event_id),
            "ticket_type_id": str(self.sale.type_id),
            "quantity": quantity,
        }

        async def receive():
            return {"type": "http.request", "body": json.dumps(body).encode()}

        lines = {k.replace("_", "-").encode(): v.encode() for k, v in headers.items()}
        lines[b"authorization"] = str(member).encode()
        scope = {"path": "/v1/reservations", "method": "POST"}
        status, out, content = await self.routes.reserve(Call(scope, lines, receive, 65_536))
        replayed = (b"idempotent-replayed", b"true") in out
        return SimpleNamespace(status=status, body=json.loads(content), replayed=replayed)


@pytest.fixture
async def door(core: Core) -> Door:
    await core.worker()
    return Door(core, await core.gate(), await core.sale(2, opens_in_s=-3000))


async def test_every_replay_of_a_forgotten_key_is_the_same(door: Door):
    """The gate refuses a key that it forgot, and remembers that; the first answer still counts."""
    member = new_id()
    first = await door.post(member, 2, idempotency_key="k")
    assert first.status == 201
    await forget_keys(door.core.client)
    for _ in range(3):
        again = await door.post(member, 2, idempotency_key="k")
        assert (again.status, again.body, again.replayed) == (201, first.body, True)


async def test_another_body_in_between_does_not_take_the_key(door: Door):
    member = new_id()
    first = await door.post(member, 2, idempotency_key="k")
    await forget_keys(door.core.client)
    other = await door.post(member, 1, idempotency_key="k")
    assert (other.status, other.body["code"]) == (422, "idempotency_conflict")
    again = await door.post(member, 2, idempotency_key="k")
    assert (again.status, again.body) == (201, first.body)


async def test_an_old_refusal_does_not_say_that_tickets_are_gone_now(door: Door):
    """A replayed `sold_out` is as old as its key."""
    holder, late = new_id(), new_id()
    held = await door.post(holder, 2)
    assert (await door.post(late, 1, idempotency_key="k")).status == 409
    await door.service.cancel(holder, UUID(held.body["id"]))
    await door.core.relayed()
    await asyncio.sleep(0.15)  # what was true a moment ago is forgotten
    replay = await door.post(late, 1, idempotency_key="k")
    assert (replay.status, replay.replayed) == (409, True)
    assert (await door.post(new_id(), 1)).status == 201


async def test_the_location_of_a_202_can_be_asked_at_at_once(core: Core):
    """Also when the key belongs to a request that still waits for its own answer."""
    steps = await core.steps()
    sale = await core.sale(2)
    await steps.keeper.rebuild(steps.conn, sale.shard)
    door = Door(core, await core.gate(), sale)
    member = new_id()
    waiting = asyncio.create_task(door.post(member, idempotency_key="k"))
    entries = await eventually(steps.read)  # nothing is decided yet
    twin = await door.post(member, idempotency_key="k", prefer="respond-async")
    assert twin.status == 202
    found = await door.service.get(member, UUID(twin.body["id"]))
    assert found.status == "queued"
    await steps.settle(await steps.decide(entries))
    assert (await waiting).body["id"] == twin.body["id"]


async def test_a_202_is_answerable_after_valkey_was_emptied(core: Core):
    await core.worker()
    sale = await core.sale(2)
    gate = await core.gate()
    door = Door(core, gate, sale)
    member = new_id()
    async with core.pool.acquire() as conn, conn.transaction():
        await conn.execute(
            "SELECT 1 FROM reservations.inventory WHERE event_id = $1 FOR UPDATE", sale.event_id
        )
        told = await door.post(member, prefer="respond-async")
        await core.client.flushall()
        seen = []

        async def answerable() -> bool:
            with suppress(Refusal):
                seen.append((await door.service.get(member, UUID(told.body["id"]))).status)
            return bool(seen)

        await eventually(answerable, within_s=5)


# -- the clockwork of a gate


async def test_a_strange_answer_does_not_stop_the_watch_over_deadlines(core: Core):
    sale = await core.sale(5)
    await core.steps()
    gate = await core.gate(wait_budget_ms=1500)

    async def strange(*_):
        raise ResponseError("MASTERDOWN Link with MASTER is down")

    gate._client.hget = strange
    asked = core.reserve(gate, sale)
    assert (await asyncio.wait_for(asked, 4)).code == QUEUED


async def test_a_server_that_hangs_does_not_make_who_waits_wait_longer(core: Core):
    sale = await core.sale(5)
    await core.steps()
    gate = await core.gate(wait_budget_ms=1500)

    async def hang(*_):
        await asyncio.sleep(5)
        raise TimeoutError

    gate._client.hget = hang
    began = asyncio.get_running_loop().time()
    assert (await core.reserve(gate, sale)).code == QUEUED
    assert asyncio.get_running_loop().time() - began < 2


async def test_one_answer_that_cannot_be_told_costs_nobody_else_theirs(core: Core):
    await core.worker()
    sale, gate = await core.sale(5), await core.gate()

    def raises(_):
        raise RuntimeError("closed")

    for request in (request_of(sale.type_raw), request_of(sale.type_raw)):
        gate.put(sale.shard, request.id, REQUEST.pack(*request), raises)
    first = core.reserve(gate, sale)
    assert (await first).code == model.HELD
    assert (await core.reserve(gate, sale)).code == model.HELD

"""Events with the real sale side: what is published sells, what is cancelled does not."""

import asyncio
from collections.abc import Awaitable
from uuid import UUID

import pytest
import pytest_asyncio

from korder.domains.event.model import Changes, NumberChanges
from korder.domains.event.service import EventService
from korder.domains.event.views import Event
from korder.domains.reservation import model
from korder.domains.reservation.gate import Answer, Gate
from korder.domains.reservation.record import REQUEST, shard_of
from korder.kernel.clock import utc_now
from korder.kernel.errors import Code, Refusal
from tests.core import request_of
from tests.integration.test_event_service import World
from tests.reserving import Core


class Selling:
    """An event service and a gate on the same servers."""

    def __init__(self, core: Core, gate: Gate) -> None:
        self.gate = gate
        self.world = World(core.pool)
        self.reservations = core.service()
        self.service = EventService(
            core.pool, self.reservations, self.world.users, self.world.invalidation
        )
        self.world.service = self.service

    async def reserve(self, type_id: UUID, event: Event, quantity: int = 1) -> Answer:
        request = request_of(type_id.bytes, quantity=quantity)
        shard = shard_of(event.id.bytes)
        return await self.gate.submit(
            shard, request.id, REQUEST.pack(*request), respond_async=False
        )

    async def counts(self, event: Event) -> list[tuple[int, int, int]]:
        self.reservations.forget_availability(None)
        found = await self.reservations.availability(event.id)
        assert found is not None
        return [(t.capacity, t.held, t.available) for t in found.ticket_types]

    def change(self, event: Event, **changes) -> Awaitable[object]:
        return self.service.patch_ticket_type(
            self.world.organizer, event.id, event.ticket_types[0].id, NumberChanges(**changes)
        )


@pytest_asyncio.fixture
async def selling(core: Core):
    await core.worker()
    return Selling(core, await core.gate())


async def test_what_is_published_sells_at_once(selling: Selling):
    event = await selling.world.published(types=(("R", 1000, 2, None), ("S", 500, 1, 1)))
    first, second = (t.id for t in event.ticket_types)
    for type_id, quantity in ((first, 2), (second, 1)):
        assert (await selling.reserve(type_id, event, quantity)).code == model.HELD
        assert (await selling.reserve(type_id, event)).code == model.SOLD_OUT
    assert await selling.counts(event) == [(2, 2, 0), (1, 1, 0)]


async def test_capacity_moves_while_it_sells_and_never_below_what_is_held(selling: Selling):
    event = await selling.world.published(types=(("R", 1000, 2, None),))
    type_id = event.ticket_types[0].id
    await selling.reserve(type_id, event, 2)
    with pytest.raises(Refusal) as refused:
        await selling.change(event, capacity=1)
    assert refused.value.code is Code.CAPACITY_BELOW_COMMITTED
    await selling.change(event, capacity=3)
    assert (await selling.reserve(type_id, event)).code == model.HELD
    assert (await selling.reserve(type_id, event)).code == model.SOLD_OUT
    shown = await selling.service.get(event.id, None)
    assert shown.ticket_types[0].capacity == 3
    assert await selling.counts(event) == [(3, 3, 0)]


async def test_a_cancelled_event_gives_its_holds_back_and_sells_no_more(selling: Selling):
    event = await selling.world.published(types=(("R", 1000, 50, None),))
    type_id = event.ticket_types[0].id
    rush = [selling.reserve(type_id, event) for _ in range(30)]
    answers, _ = await asyncio.gather(
        asyncio.gather(*rush),
        selling.service.cancel(selling.world.organizer, event.id, "storm"),
    )
    # The gate's stock is gone with the sale: whoever comes too late hears one or the other.
    too_late = {model.CLOSED, model.SOLD_OUT}
    assert {answer.code for answer in answers} <= {model.HELD, *too_late}
    assert await selling.counts(event) == [(50, 0, 0)]  # nothing is held, nothing is on offer
    assert (await selling.reserve(type_id, event)).code in too_late


async def test_a_sale_closes_and_opens_again_by_hand(selling: Selling):
    event = await selling.world.published()
    type_id = event.ticket_types[0].id
    organizer = selling.world.organizer
    await selling.service.patch(organizer, event.id, Changes(sale_closes_at=utc_now()))
    assert (await selling.reserve(type_id, event)).code == model.CLOSED
    await selling.service.patch(organizer, event.id, Changes(sale_closes_at=None))
    assert (await selling.reserve(type_id, event)).code == model.HELD

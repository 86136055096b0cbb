"""Events on a real PostgreSQL: lost updates, crashes between the two steps, who sees what."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio

from korder.domains.event import invariants, ticket_types
from korder.domains.event.listing import Place, Wanted
from korder.domains.event.model import Changes, Details, NewTicketType, NumberChanges
from korder.domains.event.service import EventService
from korder.domains.event.views import Event
from korder.kernel.errors import Code, Refusal, overloaded
from korder.kernel.ids import new_id
from korder.platform.auth import Principal
from korder.platform.idempotency import IdempotencyKey
from tests.fakes import FakeInvalidation, FakeReservations, FakeUsers


def principal() -> Principal:
    member = new_id()
    return Principal(member, member.bytes, new_id(), time.time() + 900)


class World:
    """An event service among fakes, and the members who use it."""

    def __init__(self, pool) -> None:
        self.pool = pool
        self.reservations = FakeReservations()
        self.users = FakeUsers()
        self.invalidation = FakeInvalidation()
        self.service = self.restarted()
        self.organizer, self.rival, self.admin, self.member = (principal() for _ in range(4))
        for who, role in ((self.organizer, "organizer"), (self.rival, "organizer")):
            self.users.roles[who.member_id] = frozenset({"member", role})
        self.users.roles[self.admin.member_id] = frozenset({"admin"})
        self.users.roles[self.member.member_id] = frozenset({"member"})

    def restarted(self) -> EventService:
        """Another process on the same database."""
        return EventService(self.pool, self.reservations, self.users, self.invalidation)

    async def draft(self, types=(("R", 1000, 10, 4),), *, key=None, by=None, **given) -> Event:
        values = {
            "title": "Spring concert",
            "description": "",
            "venue": "Hall 1",
            "starts_at": datetime.now(UTC) + timedelta(days=1),
            "sale_opens_at": None,
            "sale_closes_at": None,
            "currency": "KRW",
            "hold_seconds": 300,
        }
        numbers = [
            NewTicketType(name=name, price=price, capacity=capacity, max_per_member=limit)
            for name, price, capacity, limit in types
        ]
        details = Details(**{**values, **given})
        answer = await self.service.create(by or self.organizer, details, numbers, key)
        assert answer.status == 201
        return msgspec.json.decode(answer.body, type=Event)

    async def published(self, **given) -> Event:
        event = await self.draft(**given)
        return await self.service.publish(given.get("by") or self.organizer, event.id)

    async def row(self, event_id: UUID):
        return await self.pool.fetchrow("SELECT * FROM events.events WHERE id = $1", event_id)

    async def change(self, event: Event, **changes):
        return await self.service.patch_ticket_type(
            self.organizer, event.id, event.ticket_types[0].id, NumberChanges(**changes)
        )

    async def overdue(self) -> None:
        """Two seconds later."""
        for table in ("events", "ticket_types"):
            await self.pool.execute(
                f"UPDATE events.{table} SET repair_at = now() WHERE repair_at IS NOT NULL"  # noqa: S608
            )

    async def titles(self, asker=None, *, limit=20, after=None, **wanted) -> list[str]:
        items, _ = await self.service.list(
            Wanted(**wanted), asker, after=after or Place.of(None), limit=limit
        )
        return [item.title for item in items]


@pytest_asyncio.fixture
async def world(pool, clean):
    world = World(pool)
    yield world
    await world.overdue()
    world.reservations.failures.clear()
    await world.service.repair()
    async with pool.acquire() as conn:
        assert [f for f in await invariants.check(conn) if not f.ok] == []
    assert (
        await pool.fetchval(
            "SELECT count(*) FROM events.events"
            " WHERE published_at IS NOT NULL AND announced_version <> version"
        )
        == 0
    )


def refusal(code: Code):
    return pytest.raises(Refusal, match=f"^{code.value}$")


# -- a life


async def test_a_draft_becomes_public_and_sells_from_its_publishing_on(world: World):
    event = await world.draft()
    assert (event.status, event.sale_opens_at, event.sale_closes_at) == ("draft", None, None)
    assert world.reservations.calls == []
    shown = await world.service.publish(world.organizer, event.id)
    assert shown.status == "published"
    assert shown.sale_closes_at == shown.starts_at
    assert world.reservations.is_open(event.id)
    sale = world.reservations.sales[event.id]
    assert (sale.opens_at, sale.closes_at) == (shown.sale_opens_at, shown.starts_at)
    assert [t.capacity for t in sale.ticket_types] == [10]
    assert await world.service.publish(world.organizer, event.id) == shown
    assert world.reservations.calls == ["put_sale"]


async def test_a_cancelled_event_sells_no_more_and_keeps_its_first_reason(world: World):
    event = await world.published()
    off = await world.service.cancel(world.organizer, event.id, "storm")
    assert (off.status, off.cancel_reason) == ("cancelled", "storm")
    assert event.id in world.reservations.cancelled
    assert await world.service.cancel(world.organizer, event.id, "flood") == off
    with refusal(Code.INVALID_STATE):
        await world.service.publish(world.organizer, event.id)
    with refusal(Code.INVALID_STATE):
        await world.service.patch(world.organizer, event.id, Changes(title="On again"))
    with refusal(Code.INVALID_STATE):
        await world.change(event, capacity=20)


async def test_a_draft_can_be_cancelled_without_anyone_hearing_of_it(world: World):
    event = await world.draft()
    await world.service.cancel(world.organizer, event.id, "no hall")
    assert world.reservations.calls == []
    with refusal(Code.NOT_FOUND):
        await world.service.public(event.id)
    assert await world.titles(status="cancelled") == []
    assert await world.titles(world.organizer, organizer="me") == ["Spring concert"]


async def test_a_sale_that_is_over_is_not_published(world: World):
    event = await world.draft()
    await world.pool.execute(
        "UPDATE events.events SET starts_at = now() - interval '1 second' WHERE id = $1", event.id
    )
    with refusal(Code.INVALID_REQUEST):
        await world.service.publish(world.organizer, event.id)
    assert (await world.row(event.id))["status"] == "draft"


async def test_a_key_creates_once(world: World):
    key = IdempotencyKey(b"k" * 16)
    starts_at = datetime.now(UTC) + timedelta(days=1)
    first = await world.draft(key=key, starts_at=starts_at)
    twins = await asyncio.gather(*(world.draft(key=key, starts_at=starts_at) for _ in range(10)))
    assert twins == [first] * 10
    with refusal(Code.IDEMPOTENCY_CONFLICT):
        await world.draft(key=key, starts_at=starts_at, title="Another")
    other = await world.draft(key=key, starts_at=starts_at, by=world.rival)
    assert other.id != first.id
    assert await world.pool.fetchval("SELECT count(*) FROM events.events") == 2


# -- who may


async def test_only_the_organizer_and_admins_touch_an_event(world: World):
    event = await world.published()
    for stranger in (world.rival, world.member):
        with refusal(Code.NOT_FOUND):
            await world.service.patch(stranger, event.id, Changes(title="Mine"))
        with refusal(Code.NOT_FOUND):
            await world.service.cancel(stranger, event.id, "mine")
        with refusal(Code.NOT_FOUND):
            await world.service.publish(stranger, event.id)
        with refusal(Code.NOT_FOUND):
            await world.service.patch_ticket_type(
                stranger, event.id, event.ticket_types[0].id, NumberChanges(price=0)
            )
    changed = await world.service.patch(world.admin, event.id, Changes(title="Checked"))
    assert changed.title == "Checked"
    with refusal(Code.FORBIDDEN):
        await world.draft(by=world.member)
    world.users.roles[world.organizer.member_id] = frozenset({"member"})
    with refusal(Code.FORBIDDEN):
        await world.service.patch(world.organizer, event.id, Changes(title="Still mine"))
    assert await world.service.organizer_of(event.id) == world.organizer.member_id
    assert await world.service.organizer_of(new_id()) is None


async def test_a_ticket_type_of_another_event_is_not_found(world: World):
    event, other = await world.published(), await world.published()
    with refusal(Code.NOT_FOUND):
        await world.service.patch_ticket_type(
            world.organizer, event.id, other.ticket_types[0].id, NumberChanges(price=0)
        )


async def test_a_draft_is_seen_by_its_organizer_and_admins_alone(world: World):
    event = await world.draft()
    for who in (world.organizer, world.admin):
        assert await world.service.get(event.id, who) == event
        assert await world.titles(who, status="draft") == [event.title]
    for who in (None, world.rival, world.member):
        with refusal(Code.NOT_FOUND):
            await world.service.get(event.id, who)
        assert await world.titles(who, status="draft") == []
        assert await world.titles(who) == []
    with refusal(Code.UNAUTHENTICATED):
        await world.titles(organizer="me")


async def test_lists_have_the_newest_sale_first_and_pages_that_fit_together(world: World):
    soon = datetime.now(UTC).replace(microsecond=0)
    for n in (3, 1, 2, 2):
        await world.published(title=f"E{n}", sale_opens_at=soon + timedelta(minutes=n))
    assert await world.titles() == ["E3", "E2", "E2", "E1"]
    found, place = [], Place.of(None)
    while place is not None:
        items, place = await world.service.list(Wanted(), None, after=place, limit=1)
        place = None if place is None else Place.of(place.raw())
        found += [item.id for item in items]
    assert len(found) == len(set(found)) == 4


async def test_search_is_literal_and_knows_title_and_venue(world: World):
    await world.published(title="100% Jazz_Night", venue="서울 \\ Hall")
    await world.published(title="100 Jazz Night")
    assert await world.titles(q="jazz") == ["100 Jazz Night", "100% Jazz_Night"]
    for q in ("0% j", "z_n", "서울", "\\"):
        assert await world.titles(q=q) == ["100% Jazz_Night"]
    assert await world.titles(q="'; DROP TABLE events.events; --") == []


# -- together


async def test_patches_at_once_lose_nothing(world: World):
    event = await world.published()
    names = ["title", "venue", "description"]
    for n in range(5):
        await asyncio.gather(
            *(
                world.service.patch(world.organizer, event.id, Changes(**{name: f"{name} {n}"}))
                for name in names
            )
        )
        shown = await world.service.get(event.id, None)
        assert [getattr(shown, name) for name in names] == [f"{name} {n}" for name in names]
    row = await world.row(event.id)
    assert row["version"] == row["announced_version"] == 2 + 15
    assert world.reservations.sales[event.id].version == 17


async def test_number_changes_at_once_lose_nothing_and_both_sides_agree(world: World):
    event = await world.published()
    wanted = {"price": 5, "capacity": 77, "max_per_member": 9}
    await asyncio.gather(*(world.change(event, **{k: v}) for k, v in wanted.items()))
    there = world.reservations.types[event.ticket_types[0].id]
    here = (await world.service.get(event.id, None)).ticket_types[0]
    for side in (here, there):
        assert {name: getattr(side, name) for name in wanted} == wanted


async def test_capacity_stays_above_what_is_committed(world: World):
    event = await world.published()
    type_id = event.ticket_types[0].id
    world.reservations.committed[type_id] = 6
    with refusal(Code.CAPACITY_BELOW_COMMITTED):
        await world.change(event, capacity=5, price=1)
    assert (await world.service.get(event.id, None)).ticket_types == event.ticket_types
    assert (await world.change(event, capacity=6)).capacity == 6
    assert (await world.change(event, max_per_member=None)).max_per_member is None


async def test_numbers_of_a_draft_change_without_the_sale_side(world: World):
    event = await world.draft()
    assert (await world.change(event, capacity=3)).capacity == 3
    assert world.reservations.calls == []
    await world.service.publish(world.organizer, event.id)
    assert world.reservations.types[event.ticket_types[0].id].capacity == 3


# -- crashes between the two steps


class Killed(BaseException):
    """The process ends here."""


async def test_publishing_that_died_halfway_heals_by_itself(world: World):
    event = await world.draft()
    world.reservations.failures = [Killed()]
    with pytest.raises(Killed):
        await world.service.publish(world.organizer, event.id)
    assert not world.reservations.is_open(event.id)
    other = world.restarted()
    assert await other.repair() == 0  # whoever works on it gets two seconds
    await world.overdue()
    assert await other.repair() == 1
    assert world.reservations.is_open(event.id)
    await world.overdue()
    assert await other.repair() == 0


async def test_publishing_answers_only_when_the_sale_is_open(world: World):
    event = await world.draft()
    world.reservations.failures = [overloaded()]
    with refusal(Code.OVERLOADED):
        await world.service.publish(world.organizer, event.id)
    shown = await world.service.publish(world.organizer, event.id)  # the retry finishes it
    assert shown.status == "published"
    assert world.reservations.is_open(event.id)


async def test_a_late_publisher_does_not_reopen_a_cancelled_event(world: World):
    event = await world.draft()
    held = world.reservations.hold("put_sale")
    late = asyncio.create_task(world.service.publish(world.organizer, event.id))
    await held.arrived.wait()
    await world.restarted().cancel(world.organizer, event.id, "storm")
    held.let_go()
    await late
    assert not world.reservations.is_open(event.id)
    assert world.reservations.sales[event.id].version == 3
    row = await world.row(event.id)
    assert (row["status"], row["announced_version"]) == ("cancelled", 3)


async def test_cancelling_that_died_halfway_heals_by_itself(world: World):
    event = await world.published()
    world.reservations.failures = [None, Killed()]  # put, but not cancelled there
    with pytest.raises(Killed):
        await world.service.cancel(world.organizer, event.id, "storm")
    assert event.id not in world.reservations.cancelled
    assert not world.reservations.is_open(event.id)
    await world.overdue()
    assert await world.restarted().repair() == 1
    assert event.id in world.reservations.cancelled


async def test_a_change_of_numbers_that_died_halfway_heals_by_itself(world: World):
    event = await world.published()
    type_id = event.ticket_types[0].id
    world.reservations.failures = [Killed()]
    with pytest.raises(Killed):
        await world.change(event, capacity=50)
    assert (await world.service.get(event.id, None)).ticket_types[0].capacity == 10
    await world.overdue()
    assert await world.restarted().repair() == 1
    assert world.reservations.types[type_id].capacity == 50
    assert (await world.service.get(event.id, None)).ticket_types[0].capacity == 50


async def test_a_dead_change_that_is_refused_is_dropped(world: World):
    event = await world.published()
    type_id = event.ticket_types[0].id
    world.reservations.failures = [Killed()]
    with pytest.raises(Killed):
        await world.change(event, capacity=5)
    world.reservations.committed[type_id] = 6
    await world.overdue()
    assert await world.restarted().repair() == 1
    shown = await world.service.get(event.id, None)
    assert shown.ticket_types[0].capacity == world.reservations.types[type_id].capacity == 10


async def test_the_next_change_finishes_a_dead_one(world: World, monkeypatch):
    monkeypatch.setattr(ticket_types, "ABANDONED_S", 0.0)
    event = await world.published()
    world.reservations.failures = [Killed()]
    with pytest.raises(Killed):
        await world.change(event, price=7)
    changed = await world.change(event, capacity=50)
    assert (changed.price, changed.capacity) == (7, 50)


async def test_a_change_taken_for_dead_cannot_leave_the_two_sides_apart(world: World):
    event = await world.published()
    type_id = event.ticket_types[0].id
    held = world.reservations.hold("change_ticket_type")
    slow = asyncio.create_task(world.change(event, capacity=50))
    await held.arrived.wait()
    await world.overdue()
    assert await world.restarted().repair() == 1
    await world.change(event, capacity=60)
    held.let_go()  # only now does the first question arrive there: 50 over 60
    assert (await slow).capacity == 60
    assert world.reservations.types[type_id].capacity == 60


async def test_changes_wait_for_each_other_but_not_for_ever(world: World, monkeypatch):
    monkeypatch.setattr(ticket_types, "WAIT_S", 0.1)
    event = await world.published()
    held = world.reservations.hold("change_ticket_type")
    slow = asyncio.create_task(world.change(event, capacity=50))
    await held.arrived.wait()
    with refusal(Code.OVERLOADED):
        await world.change(event, capacity=60)
    held.let_go()
    assert (await slow).capacity == 50


async def test_a_change_before_the_sale_side_heard_of_the_event_opens_it_first(world: World):
    event = await world.draft()
    world.reservations.failures = [Killed()]
    with pytest.raises(Killed):
        await world.service.publish(world.organizer, event.id)
    assert (await world.change(event, capacity=50)).capacity == 50
    assert world.reservations.is_open(event.id)
    assert world.reservations.types[event.ticket_types[0].id].capacity == 50


async def test_the_audit_names_what_stayed_behind(world: World, pool):
    event = await world.published()
    await pool.execute(
        "UPDATE events.events SET version = version + 1, repair_at = now(),"
        " updated_at = now() - interval '11 seconds' WHERE id = $1",
        event.id,
    )
    async with pool.acquire() as conn:
        told, ended = await invariants.check(conn)
    assert (told.checked, told.failed, told.examples) == (1, 1, (str(event.id),))
    assert (ended.checked, ended.failed) == (1, 0)


# -- caches and cleaning


async def test_the_public_copy_follows_every_change(world: World):
    event = await world.draft()
    with refusal(Code.NOT_FOUND):
        await world.service.public(event.id)
    assert world.service.cached_public(str(event.id)) is None

    async def shown() -> Event:
        body = await world.service.public(event.id)
        assert world.service.cached_public(str(event.id)) == body
        return msgspec.json.decode(body, type=Event)

    assert await world.service.publish(world.organizer, event.id) == await shown()
    await world.service.patch(world.organizer, event.id, Changes(title="New"))
    assert (await shown()).title == "New"
    await world.change(event, capacity=11)
    assert (await shown()).ticket_types[0].capacity == 11
    await world.service.cancel(world.organizer, event.id, "storm")
    assert (await shown()).status == "cancelled"
    assert world.service.cache_hits >= 4
    assert world.service.cache_misses >= 4
    assert ("event", str(event.id)) in world.invalidation.told


async def test_old_kept_answers_are_deleted(world: World, pool):
    await world.draft(key=IdempotencyKey(b"a" * 16))
    await world.draft(key=IdempotencyKey(b"b" * 16))
    await pool.execute(
        "UPDATE events.idempotency SET created_at = now() - interval '49 hours'"
        " WHERE key_digest = $1",
        b"a" * 16,
    )
    assert await world.service.housekeeping() == 1
    assert await pool.fetchval("SELECT count(*) FROM events.idempotency") == 1

"""Reserving, asking, listing, giving back; the sale's window; holds that end."""

import asyncio
from datetime import datetime
from uuid import UUID

from korder.kernel.ids import new_id
from tests.contract.client import Api, Person, eventually, in_s, wish

MINE = "/v1/reservations"
FIELDS = {
    "id", "event_id", "ticket_type_id", "quantity", "status", "amount", "currency", "expires_at",
    "created_at",
}  # fmt: skip


async def test_a_hold(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, price=700, hold_seconds=120, currency="USD")
    response = await api.reserve(member, event, 3)
    assert response.status_code == 201
    held = response.json()
    assert set(held) >= FIELDS
    assert held["event_id"] == event["id"]
    assert held["ticket_type_id"] == event["ticket_types"][0]["id"]
    assert (held["quantity"], held["status"]) == (3, "held")
    assert (held["amount"], held["currency"]) == (2100, "USD")
    ends, begins = (datetime.fromisoformat(held[name]) for name in ("expires_at", "created_at"))
    assert (ends - begins).total_seconds() == 120
    found = await api.ok("GET", f"{MINE}/{held['id']}", by=member)
    assert {name: found[name] for name in held} == held
    assert (await api.ok("GET", MINE, by=member))["items"] == [found]


async def test_reserving_needs_a_member(api: Api, organizer: Person):
    event = await api.on_sale(organizer)
    await api.refused(401, "unauthenticated", "POST", MINE, wish(event))
    for path in (MINE, f"{MINE}/{new_id()}"):
        await api.refused(401, "unauthenticated", "GET", path)
    await api.refused(401, "unauthenticated", "POST", f"{MINE}/{new_id()}/cancel")


async def test_quantities(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=500)
    for quantity in (0, -1, 101, 2**31, 2**63, -(2**63), 10**30, 1.5, "1", True, None, [1]):
        problem = await api.refused(
            422, "invalid_request", "POST", MINE, wish(event, quantity), by=member
        )
        assert [error["field"] for error in problem["errors"]] == ["quantity"], quantity
    for quantity in (1, 100):
        await api.held(member, event, quantity)


async def test_fewer_are_left_than_asked_for(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=3)
    await api.held(member, event, 2)
    refused = await api.reserve(member, event, 2)
    assert (refused.status_code, refused.json()["code"]) == (409, "sold_out")
    await api.held(member, event, 1)


async def test_what_is_not_on_sale(api: Api, organizer: Person, member: Person):
    event, other = await api.on_sale(organizer), await api.on_sale(organizer)
    for change in (
        {"event_id": str(new_id())},
        {"ticket_type_id": str(new_id())},
        {"event_id": other["id"]},
        {"ticket_type_id": other["ticket_types"][0]["id"]},
        {"ticket_type_id": event["id"]},
    ):
        await api.refused(404, "not_found", "POST", MINE, {**wish(event), **change}, by=member)
    for bad in ("", "x", "' OR 1=1 --", event["id"] + "\0", None, 5):
        for name in ("event_id", "ticket_type_id"):
            problem = await api.refused(
                422, "invalid_request", "POST", MINE, {**wish(event), name: bad}, by=member
            )
            assert name in [error["field"] for error in problem["errors"]], bad


async def test_ids_in_other_letters(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer)
    body = {name: str(value).upper() for name, value in wish(event).items()} | {"quantity": 1}
    response = await api.call("POST", MINE, body, by=member)
    assert response.status_code == 201
    assert response.json()["event_id"] == event["id"]


async def test_the_sale_opens_and_closes_by_the_server_clock(
    api: Api, organizer: Person, member: Person
):
    times = {"sale_opens_at": in_s(0.6), "sale_closes_at": in_s(2)}
    event = await api.on_sale(organizer, capacity=10_000, **times)
    early = await api.reserve(member, event)
    assert (early.status_code, early.json()["code"]) == (409, "sale_not_open")

    async def code():
        response = await api.reserve(member, event)
        return "held" if response.status_code == 201 else response.json()["code"]

    await eventually(code, lambda found: found == "held")
    await eventually(code, lambda found: found == "sale_closed")
    path = f"/v1/events/{event['id']}"
    await api.ok("PATCH", path, {"sale_closes_at": in_s(60)}, by=organizer)
    await eventually(code, lambda found: found == "held", 2)
    await api.ok("PATCH", path, {"sale_opens_at": in_s(30)}, by=organizer)
    await eventually(code, lambda found: found == "sale_not_open", 2)


async def test_one_hold_for_a_key(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=5)
    key = {"Idempotency-Key": f"~!{new_id()}"}
    first = await api.reserve(member, event, 2, headers=key)
    again = await api.reserve(member, event, 2, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    conflict = await api.reserve(member, event, 1, headers=key)
    assert (conflict.status_code, conflict.json()["code"]) == (422, "idempotency_conflict")
    other = await api.reserve(await api.person(), event, 1, headers=key)
    assert other.status_code == 201, "a key belongs to its member"
    await eventually(lambda: api.left(event), lambda left: left["available"] == 2, 1)


async def test_many_equal_requests_at_once(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=50)
    key = {"Idempotency-Key": str(new_id())}
    answers = await asyncio.gather(*(api.reserve(member, event, 1, headers=key) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len((await api.ok("GET", MINE, by=member))["items"]) == 1


async def test_a_refusal_is_repeated_for_its_key(api: Api, organizer: Person, member: Person):
    """Also when it would be another answer by now."""
    event = await api.on_sale(organizer, capacity=1)
    key = {"Idempotency-Key": str(new_id())}
    other = await api.person()
    held = await api.held(other, event)
    first = await api.reserve(member, event, 1, headers=key)
    assert (first.status_code, first.json()["code"]) == (409, "sold_out")
    assert "idempotent-replayed" not in first.headers
    await api.ok("POST", f"{MINE}/{held['id']}/cancel", by=other)
    await eventually(lambda: api.reserve(other, event), lambda found: found.status_code == 201, 1)
    for _ in range(2):
        again = await api.reserve(member, event, 1, headers=key)
        assert (again.status_code, again.content) == (409, first.content)
        assert again.headers["idempotent-replayed"] == "true"


async def test_what_is_given_back_can_be_had_again(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, max_per_member=1)

    async def code() -> str:
        response = await api.reserve(member, event)
        return "held" if response.status_code == 201 else response.json()["code"]

    assert [await code() for _ in range(2)] == ["held", "limit_exceeded"]
    (held,) = (await api.ok("GET", MINE, by=member))["items"]
    await api.ok("POST", f"{MINE}/{held['id']}/cancel", by=member)
    await eventually(code, lambda found: found == "held", 1)


async def test_asking_asynchronously(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer)
    prefer = {"Prefer": "wait=0, respond-async"}
    response = await api.reserve(member, event, 2, headers=prefer)
    assert response.status_code == 202
    queued = response.json()
    assert set(queued) >= {"id", "status"}
    assert queued["status"] == "queued"
    assert response.headers["location"] == f"{MINE}/{queued['id']}"
    assert int(response.headers["retry-after"]) >= 0
    other = await api.person()
    await api.refused(404, "not_found", "GET", response.headers["location"], by=other)
    found = await eventually(
        lambda: api.ok("GET", response.headers["location"], by=member),
        lambda found: found["status"] != "queued",
    )
    assert set(found) >= FIELDS
    assert (found["id"], found["status"], found["quantity"]) == (queued["id"], "held", 2)


async def test_a_refused_request_that_was_queued_is_kept(
    api: Api, organizer: Person, member: Person
):
    """The gate lets it through; the truth, which the gate has not heard of yet, refuses."""
    event = await api.on_sale(organizer, capacity=5)
    await api.db.execute(
        "UPDATE reservations.inventory SET capacity = 0 WHERE event_id = $1", UUID(event["id"])
    )
    response = await api.reserve(member, event, 1, headers={"Prefer": "respond-async"})
    assert response.status_code == 202
    found = await eventually(
        lambda: api.ok("GET", response.headers["location"], by=member),
        lambda found: found["status"] != "queued",
    )
    assert (found["status"], found["reason"]) == ("rejected", "sold_out")
    listed = await api.ok("GET", f"{MINE}?status=rejected", by=member)
    assert [item["id"] for item in listed["items"]] == [found["id"]]
    await api.refused(409, "invalid_state", "POST", f"{MINE}/{found['id']}/cancel", by=member)


async def test_giving_back(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=2)
    held = await api.held(member, event, 2)
    path = f"{MINE}/{held['id']}/cancel"
    response = await api.call("POST", path, by=member)
    assert response.status_code == 200
    cancelled = response.json()
    assert cancelled["id"] == held["id"]
    assert cancelled["status"] == "cancelled"
    for _ in range(2):
        assert await api.ok("POST", path, by=member) == cancelled
    other = await api.person()

    async def again():
        return (await api.reserve(other, event, 2)).status_code

    await eventually(again, lambda status: status == 201, 1)
    await eventually(lambda: api.left(event), lambda left: left["held"] == 2, 1)


async def test_another_members_reservation_is_not_found(
    api: Api, organizer: Person, member: Person
):
    event = await api.on_sale(organizer)
    held = await api.held(member, event)
    other = await api.person()
    for by in (other, organizer):
        await api.refused(404, "not_found", "GET", f"{MINE}/{held['id']}", by=by)
        await api.refused(404, "not_found", "POST", f"{MINE}/{held['id']}/cancel", by=by)
        assert (await api.ok("GET", MINE, by=by))["items"] == []
    for missing in ("x", str(new_id()), "%00", "0"):
        await api.refused(404, "not_found", "GET", f"{MINE}/{missing}", by=member)
        await api.refused(404, "not_found", "POST", f"{MINE}/{missing}/cancel", by=member)


async def test_a_hold_that_ends_gives_its_tickets_back(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=1, hold_seconds=5)
    held = await api.held(member, event)
    assert (await api.reserve(await api.person(), event)).json()["code"] == "sold_out"
    found = await eventually(
        lambda: api.ok("GET", f"{MINE}/{held['id']}", by=member),
        lambda found: found["status"] == "expired",
    )
    assert found["id"] == held["id"]
    await api.refused(409, "reservation_expired", "POST", f"{MINE}/{held['id']}/cancel", by=member)
    other = await api.person()

    async def again():
        return (await api.reserve(other, event)).status_code

    await eventually(again, lambda status: status == 201, 2)


async def test_my_list(api: Api, organizer: Person, member: Person):
    first, second = await api.on_sale(organizer), await api.on_sale(organizer)
    made = [
        (await api.held(member, event))["id"] for event in (first, second, first, second, first)
    ]
    await api.ok("POST", f"{MINE}/{made[4]}/cancel", by=member)
    newest = list(reversed(made))

    async def ids(query: str):
        return [item["id"] for item in await api.walk(f"{MINE}?{query}", by=member, limit=2)]

    assert await ids("") == newest
    assert await ids(f"event_id={first['id']}") == [made[4], made[2], made[0]]
    assert await ids("status=cancelled") == [made[4]]
    assert await ids(f"status=held&event_id={first['id']}") == [made[2], made[0]]
    assert await ids(f"event_id={new_id()}") == []
    for query in ("status=sold", "status=", "event_id=x", "event_id=", "event_id=%00"):
        await api.refused(422, "invalid_request", "GET", f"{MINE}?{query}", by=member)


async def test_the_organizers_list(api: Api, organizer: Person, admin: Person):
    event = await api.on_sale(organizer)
    people = [await api.person() for _ in range(5)]
    made = [(await api.held(by, event))["id"] for by in people]
    await api.ok("POST", f"{MINE}/{made[0]}/cancel", by=people[0])
    path = f"/v1/events/{event['id']}/reservations"
    for by in (organizer, admin):
        found = await api.walk(path, by=by, limit=2)
        assert [item["id"] for item in found] == list(reversed(made))
        assert {item["event_id"] for item in found} == {event["id"]}
    found = await api.walk(f"{path}?status=cancelled", by=organizer)
    assert [item["id"] for item in found] == made[:1]

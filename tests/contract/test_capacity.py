"""Ticket types change while they sell; availability is at most a second old."""

import asyncio

from tests.contract.client import Api, Person, eventually


async def available(api: Api, event) -> int:
    return (await api.left(event))["available"]


async def test_availability(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=5)
    kind = event["ticket_types"][0]["id"]
    counts = await api.ok("GET", f"/v1/events/{event['id']}/availability")
    assert set(counts) >= {"event_id", "as_of", "sold_out", "ticket_types"}
    assert (counts["event_id"], counts["sold_out"]) == (event["id"], False)
    assert counts["as_of"].endswith("Z")
    wanted = {"id": kind, "capacity": 5, "held": 0, "sold": 0, "available": 5}
    assert counts["ticket_types"] == [wanted]
    await api.held(member, event, 3)
    after = {**wanted, "held": 3, "available": 2}
    await eventually(lambda: api.left(event), lambda found: found == after, 1)
    await api.held(await api.person(), event, 2)

    async def sold_out():
        return (await api.ok("GET", f"/v1/events/{event['id']}/availability"))["sold_out"]

    await eventually(sold_out, lambda found: found, 1)


async def test_more_and_fewer_tickets_while_it_sells(api: Api, organizer: Person):
    event = await api.on_sale(organizer, capacity=2, price=100)
    kind = event["ticket_types"][0]["id"]
    path = f"/v1/events/{event['id']}/ticket-types/{kind}"
    await api.held(await api.person(), event, 2)
    refused = await api.reserve(await api.person(), event)
    assert (refused.status_code, refused.json()["code"]) == (409, "sold_out")

    more = await api.call("PATCH", path, {"capacity": 4, "price": 250}, by=organizer)
    assert more.status_code == 200
    assert more.json() == {
        "id": kind, "name": "R", "price": 250, "capacity": 4, "max_per_member": None
    }  # fmt: skip
    assert (await api.held(await api.person(), event))["amount"] == 250, "the new price"
    await eventually(lambda: available(api, event), lambda left: left == 1, 1)

    for below in (0, 1, 2):
        await api.refused(
            409, "capacity_below_committed", "PATCH", path, {"capacity": below}, by=organizer
        )
    await api.ok("PATCH", path, {"capacity": 3}, by=organizer)
    refused = await api.reserve(await api.person(), event)
    assert (refused.status_code, refused.json()["code"]) == (409, "sold_out")
    shown = await api.ok("GET", f"/v1/events/{event['id']}")
    assert shown["ticket_types"][0]["capacity"] == 3
    await api.ok("PATCH", path, {"capacity": 5}, by=organizer)
    await api.held(await api.person(), event, 2)
    await eventually(lambda: available(api, event), lambda left: left == 0, 1)


async def test_the_allowance_of_a_member(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer, capacity=20, max_per_member=2)
    path = f"/v1/events/{event['id']}/ticket-types/{event['ticket_types'][0]['id']}"

    async def asked(quantity: int) -> int | str:
        response = await api.reserve(member, event, quantity)
        return 201 if response.status_code == 201 else response.json()["code"]

    assert await asked(3) == "limit_exceeded"
    assert [await asked(1) for _ in range(3)] == [201, 201, "limit_exceeded"]
    await api.ok("PATCH", path, {"max_per_member": 3}, by=organizer)
    assert await asked(1) == 201
    changed = await api.ok("PATCH", path, {"max_per_member": None}, by=organizer)
    assert changed["max_per_member"] is None
    assert await asked(5) == 201


async def test_changes_at_once_leave_one_truth(api: Api, organizer: Person):
    event = await api.on_sale(organizer, capacity=10)
    path = f"/v1/events/{event['id']}/ticket-types/{event['ticket_types'][0]['id']}"
    sizes = (4, 5, 6, 7)
    answers = await asyncio.gather(
        *(api.ok("PATCH", path, {"capacity": size}, by=organizer) for size in sizes)
    )
    assert sorted(answer["capacity"] for answer in answers) == list(sizes)
    shown = await api.ok("GET", f"/v1/events/{event['id']}")
    capacity = shown["ticket_types"][0]["capacity"]
    await eventually(lambda: available(api, event), lambda left: left == capacity, 1)
    held = await api.reserve(await api.person(), event, capacity)
    assert held.status_code == 201
    refused = await api.reserve(await api.person(), event)
    assert refused.json()["code"] == "sold_out"


async def test_numbers_that_cannot_be(api: Api, organizer: Person):
    event = await api.on_sale(organizer)
    path = f"/v1/events/{event['id']}/ticket-types/{event['ticket_types'][0]['id']}"
    cases = [("capacity", -1), ("capacity", None), ("price", -1), ("price", 1.5), ("name", "x")]
    cases += [("max_per_member", 0), ("capacity", 2**63), ("price", 2**63), ("price", True)]
    for field, value in cases:
        problem = await api.refused(
            422, "invalid_request", "PATCH", path, {field: value}, by=organizer
        )
        assert [error["field"] for error in problem["errors"]] == [field], value

"""What one API process does, the other knows: in time, and without being asked twice."""

import asyncio
from typing import Any

from korder.kernel.ids import new_id
from tests.contract.client import Api, Person, eventually, wish

Both = tuple[Api, Api]
DRAFT = {
    "title": "T",
    "venue": "V",
    "starts_at": "2099-01-01T00:00:00Z",
    "ticket_types": [{"name": "R", "price": 1, "capacity": 1}],
}


async def test_they_are_two(both: Both):
    prefixes = set()
    for one in both:
        ids = [(await one.call("GET", "/health/live")).headers["x-request-id"] for _ in range(3)]
        assert len(set(ids)) == 3
        prefixes |= {found.split("-")[0] for found in ids}
    assert len(prefixes) == 2


async def test_signing_out_on_one_ends_the_token_on_both(api: Api, both: Both):
    tokens = await api.login(await api.signed_up())
    person = Person("", tokens["access_token"])
    for one in both:
        await one.ok("GET", "/v1/users/me", by=person)
    await both[0].ok("POST", "/v1/auth/logout", {"refresh_token": tokens["refresh_token"]})
    for one in both:
        for method, path in (("GET", "/v1/users/me"), ("POST", "/v1/reservations")):

            async def status(one: Api = one, method: str = method, path: str = path) -> int:
                return (await one.call(method, path, by=person)).status_code

            await eventually(status, lambda found: found == 401, 5)


async def test_a_change_of_an_event_is_seen_on_both(both: Both, organizer: Person):
    here, there = both
    event = await here.on_sale(organizer, capacity=3)
    path = f"/v1/events/{event['id']}"
    assert await there.ok("GET", path) == event
    kind = f"{path}/ticket-types/{event['ticket_types'][0]['id']}"
    await here.ok("PATCH", path, {"title": "새 이름"}, by=organizer)
    await here.ok("PATCH", kind, {"capacity": 1}, by=organizer)

    def now(event: dict[str, Any]) -> bool:
        return event["title"] == "새 이름" and event["ticket_types"][0]["capacity"] == 1

    await eventually(lambda: there.ok("GET", path), now, 1)
    await here.ok("POST", f"{path}/cancel", {"reason": "비"}, by=organizer)
    await eventually(lambda: there.ok("GET", path), lambda e: e["status"] == "cancelled", 1)


async def test_availability_is_at_most_a_second_old_on_both(
    api: Api, both: Both, organizer: Person
):
    here, there = both
    event = await here.on_sale(organizer, capacity=100)
    for held in range(1, 6):
        await here.held(await api.person(), event)
        for one in (here, there):

            async def counted(one: Api = one) -> int:
                found: int = (await one.left(event))["held"]
                return found

            await eventually(counted, lambda found, held=held: found == held, 1)


async def test_what_one_queued_the_other_can_tell(both: Both, organizer: Person, member: Person):
    here, there = both
    event = await here.on_sale(organizer)
    made = await here.reserve(member, event, headers={"Prefer": "respond-async"})
    assert made.status_code == 202
    found = await eventually(
        lambda: there.ok("GET", made.headers["location"], by=member),
        lambda found: found["status"] != "queued",
    )
    assert found["status"] == "held"


async def test_one_answer_for_a_key_on_both(both: Both, organizer: Person, member: Person):
    event = await both[0].on_sale(organizer)
    key = {"Idempotency-Key": str(new_id())}
    body = wish(event)
    answers = await asyncio.gather(
        *(one.call("POST", "/v1/reservations", body, by=member, headers=key) for one in both * 10)
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    mine = await both[1].ok("GET", "/v1/reservations", by=member)
    assert len(mine["items"]) == 1
    drafts = [
        await one.call("POST", "/v1/events", DRAFT, by=organizer, headers=key) for one in both
    ]
    assert drafts[0].content == drafts[1].content


async def test_a_role_taken_on_one_is_gone_on_both(api: Api, both: Both, admin: Person):
    here, there = both
    person = await api.person("organizer")
    await there.draft(person)
    await here.ok("PUT", f"/v1/users/{person.id}/roles", {"roles": ["member"]}, by=admin)

    async def code() -> Any:
        return (await there.call("POST", "/v1/events", DRAFT, by=person)).status_code

    await eventually(code, lambda found: found == 403, 1)

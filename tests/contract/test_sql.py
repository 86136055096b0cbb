"""SQL in every text that may be stored is a text: it comes back as it was sent."""

import pytest

from korder.kernel.ids import new_id
from tests.contract.bad import SQL
from tests.contract.client import Api, Person, event_body

TEXTS = [*SQL, "%s %(name)s :name ?", "\\", "\\\\'", "--", "/* */", "$$; COMMIT; $$", "E'\\047'"]


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_stays_a_text(api: Api, organizer: Person, admin: Person, text: str):
    kinds = [{"name": text, "price": 1, "capacity": 1}]
    body = event_body(title=text, venue=text, description=text, ticket_types=kinds)
    key = {"Idempotency-Key": "".join(text.split()) + new_id().hex}
    event = await api.ok("POST", "/v1/events", body, by=organizer, headers=key)
    assert (event["title"], event["venue"], event["description"]) == (text, text, text)
    assert event["ticket_types"][0]["name"] == text
    path = f"/v1/events/{event['id']}"
    await api.ok("PATCH", path, {"title": f"{text}!"}, by=organizer)
    await api.ok("POST", f"{path}/publish", by=organizer)
    assert (await api.ok("GET", path))["title"] == f"{text}!"
    found = await api.ok("GET", "/v1/events", params={"q": text, "limit": "100"})
    assert event["id"] in [item["id"] for item in found["items"]]
    cancelled = await api.ok("POST", f"{path}/cancel", {"reason": text}, by=organizer)
    assert cancelled["cancel_reason"] == text

    member = await api.person()
    renamed = await api.ok("PATCH", "/v1/users/me", {"name": text}, by=member)
    assert renamed["name"] == text
    points = f"/v1/users/{member.id}/points"
    entry = await api.ok("POST", points, {"delta": 1, "reason": text}, by=admin)
    assert entry["reason"] == text
    assert (await api.ok("GET", "/v1/users/me", by=member)) == {**renamed, "points": 1}


async def test_nobody_is_found_by_sql(api: Api, admin: Person):
    for text in TEXTS:
        found = await api.ok("GET", "/v1/users", by=admin, params={"email": text})
        assert found == {"items": [], "next_cursor": None}
        for body in ({"email": text, "password": text}, {"email": "a@b.c", "password": text}):
            await api.refused(401, "unauthenticated", "POST", "/v1/auth/login", body)
        await api.refused(
            401, "unauthenticated", "POST", "/v1/auth/refresh", {"refresh_token": text}
        )
    assert await api.db.fetchval("SELECT count(*) FROM users.members") > 0

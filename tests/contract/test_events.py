"""The life of an event: drafted, published, changed, cancelled; who may do what."""

from korder.kernel.ids import new_id
from tests.contract.client import Api, Person, event_body, in_s

EVENTS = "/v1/events"


async def test_a_new_event_is_a_draft(api: Api, organizer: Person):
    response = await api.call("POST", EVENTS, event_body(), by=organizer)
    assert response.status_code == 201
    event = response.json()
    assert set(event) >= {
        "id", "title", "description", "venue", "starts_at", "sale_opens_at", "sale_closes_at",
        "currency", "hold_seconds", "status", "ticket_types",
    }  # fmt: skip
    assert (event["status"], event["currency"], event["hold_seconds"]) == ("draft", "KRW", 300)
    (kind,) = event["ticket_types"]
    assert kind == {
        "id": kind["id"], "name": "R", "price": 50_000, "capacity": 10, "max_per_member": None
    }  # fmt: skip
    assert await api.ok("GET", f"{EVENTS}/{event['id']}", by=organizer) == event


async def test_everything_that_can_be_given(api: Api, organizer: Person):
    kinds = [
        {"name": "VIP", "price": 0, "capacity": 0, "max_per_member": 1},
        {"name": "일반", "price": 9, "capacity": 10**6},
    ]
    body = event_body(
        description="두 시간",
        sale_opens_at="2098-12-01T10:00:00+09:00",
        sale_closes_at="2098-12-31T00:00:00Z",
        starts_at="2099-01-01T00:00:00Z",
        currency="USD",
        hold_seconds=3600,
        ticket_types=kinds,
    )
    event = await api.ok("POST", EVENTS, body, by=organizer)
    assert event["sale_opens_at"] == "2098-12-01T01:00:00Z"
    assert event["sale_closes_at"] == "2098-12-31T00:00:00Z"
    assert (event["description"], event["currency"]) == ("두 시간", "USD")
    assert event["hold_seconds"] == 3600
    assert [kind["name"] for kind in event["ticket_types"]] == ["VIP", "일반"]
    assert [kind["max_per_member"] for kind in event["ticket_types"]] == [1, None]


async def test_what_an_event_must_have(api: Api, organizer: Person):
    for field in ("title", "venue", "starts_at", "ticket_types"):
        problem = await api.refused(
            422, "invalid_request", "POST", EVENTS, event_body(**{field: ...}), by=organizer
        )
        assert [error["field"] for error in problem["errors"]] == [field]


async def test_what_an_event_must_not_have(api: Api, organizer: Person):
    cases = [
        ("hold_seconds", 4),
        ("hold_seconds", 3601),
        ("currency", "krw"),
        ("currency", "XXXX"),
        ("starts_at", "2099-01-01T00:00:00"),
        ("starts_at", in_s(-60)),
        ("starts_at", 4_070_908_800),
        ("sale_closes_at", in_s(-60)),
        ("status", "published"),
        ("id", str(new_id())),
        ("organizer_id", str(new_id())),
        ("ticket_types", []),
        ("title", ""),
        ("title", "x" * 10_000),
    ]
    for field, value in cases:
        problem = await api.refused(
            422, "invalid_request", "POST", EVENTS, event_body(**{field: value}), by=organizer
        )
        assert [error["field"] for error in problem["errors"]] == [field], (field, value)
    late = event_body(sale_opens_at=in_s(500), sale_closes_at=in_s(400))
    await api.refused(422, "invalid_request", "POST", EVENTS, late, by=organizer)


async def test_who_makes_events(api: Api, admin: Person, member: Person):
    await api.refused(401, "unauthenticated", "POST", EVENTS, event_body())
    await api.refused(403, "forbidden", "POST", EVENTS, event_body(), by=member)
    await api.ok("POST", EVENTS, event_body(), by=admin)


async def test_an_event_is_made_once_for_a_key(api: Api, organizer: Person):
    key, body = {"Idempotency-Key": f"event-{new_id()}"}, event_body()
    first, again = [
        await api.call("POST", EVENTS, body, by=organizer, headers=key) for _ in range(2)
    ]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = {**body, "title": "다른 공연"}
    await api.refused(422, "idempotency_conflict", "POST", EVENTS, other, by=organizer, headers=key)
    somebody = await api.person("organizer")
    theirs = await api.call("POST", EVENTS, body, by=somebody, headers=key)
    assert theirs.status_code == 201
    assert theirs.json()["id"] != first.json()["id"], "a key belongs to its member"


async def test_a_draft_is_seen_by_its_organizer_and_admins_alone(
    api: Api, organizer: Person, admin: Person, member: Person
):
    event = await api.draft(organizer)
    path, kind = f"{EVENTS}/{event['id']}", event["ticket_types"][0]["id"]
    other = await api.person("organizer")
    for by in (organizer, admin):
        assert await api.ok("GET", path, by=by) == event
    for by in (None, member, other):
        await api.refused(404, "not_found", "GET", path, by=by)
        assert event["id"] not in await ids(api, "?limit=100", by)
        assert event["id"] not in await ids(api, "?limit=100&status=draft", by)
    await api.refused(404, "not_found", "GET", f"{path}/availability")
    body = {"event_id": event["id"], "ticket_type_id": kind, "quantity": 1}
    await api.refused(404, "not_found", "POST", "/v1/reservations", body, by=member)


async def ids(api: Api, query: str, by: Person | None = None) -> list[str]:
    return [item["id"] for item in (await api.ok("GET", EVENTS + query, by=by))["items"]]


async def test_only_its_organizer_and_admins_change_an_event(
    api: Api, organizer: Person, admin: Person, member: Person
):
    event = await api.on_sale(organizer)
    path, kind = f"{EVENTS}/{event['id']}", event["ticket_types"][0]["id"]
    other = await api.person("organizer")
    calls = [
        ("PATCH", path, {"title": "도둑"}),
        ("POST", f"{path}/publish", None),
        ("POST", f"{path}/cancel", {"reason": "no"}),
        ("PATCH", f"{path}/ticket-types/{kind}", {"capacity": 0}),
    ]
    for method, called, body in calls:
        await api.refused(401, "unauthenticated", method, called, body)
        for by in (member, other):
            await api.refused(404, "not_found", method, called, body, by=by)
    await api.refused(401, "unauthenticated", "GET", f"{path}/reservations")
    for by in (member, other):
        await api.refused(404, "not_found", "GET", f"{path}/reservations", by=by)
    assert await api.ok("GET", path) == event
    assert (await api.ok("PATCH", path, {"title": "새 이름"}, by=admin))["title"] == "새 이름"


async def test_publishing(api: Api, organizer: Person):
    draft = await api.draft(organizer)
    path = f"{EVENTS}/{draft['id']}"
    response = await api.call("POST", f"{path}/publish", by=organizer)
    assert response.status_code == 200
    event = response.json()
    assert event["status"] == "published"
    assert event["sale_opens_at"] == event["published_at"], "default: now"
    assert event["sale_closes_at"] == event["starts_at"], "default: the start"
    assert await api.ok("GET", path) == event
    assert await api.ok("POST", f"{path}/publish", by=organizer) == event


async def test_patching(api: Api, organizer: Person):
    event = await api.on_sale(organizer)
    path = f"{EVENTS}/{event['id']}"
    changes = {
        "title": "가을 콘서트", "description": "비가 와도", "venue": "Hall 2",
        "starts_at": "2099-02-01T00:00:00Z", "sale_closes_at": "2099-01-01T00:00:00Z",
        "hold_seconds": 60,
    }  # fmt: skip
    changed = await api.ok("PATCH", path, changes, by=organizer)
    assert changed == {**event, **changes}
    assert await api.ok("GET", path) == changed, "and at once"
    assert await api.ok("PATCH", path, {}, by=organizer) == changed
    for field, value in (("ticket_types", []), ("status", "draft"), ("hold_seconds", 4)):
        problem = await api.refused(
            422, "invalid_request", "PATCH", path, {field: value}, by=organizer
        )
        assert [error["field"] for error in problem["errors"]] == [field]


async def test_cancelling(api: Api, organizer: Person, member: Person):
    event = await api.on_sale(organizer)
    path = f"{EVENTS}/{event['id']}"
    held = await api.held(member, event)
    await api.refused(422, "invalid_request", "POST", f"{path}/cancel", {}, by=organizer)
    cancelled = await api.ok("POST", f"{path}/cancel", {"reason": "비"}, by=organizer)
    assert (cancelled["status"], cancelled["cancel_reason"]) == ("cancelled", "비")
    again = await api.ok("POST", f"{path}/cancel", {"reason": "바람"}, by=organizer)
    assert again == cancelled
    assert await api.ok("GET", path) == cancelled
    found = await api.ok("GET", f"/v1/reservations/{held['id']}", by=member)
    assert found["status"] == "cancelled", "holds are cancelled"
    late = await api.reserve(await api.person(), event)
    assert (late.status_code, late.json()["code"]) == (409, "sale_closed")
    await api.refused(409, "invalid_state", "POST", f"{path}/publish", by=organizer)
    await api.refused(409, "invalid_state", "PATCH", path, {"title": "x"}, by=organizer)


async def test_listing(api: Api, organizer: Person, admin: Person):
    own = await api.person("organizer")
    word = f"겨울{new_id().hex}"
    events = [
        await api.on_sale(own, title=f"{word} {n}", sale_opens_at=in_s(100 * n)) for n in range(5)
    ]
    draft = await api.draft(own, venue=f"Hall {word}")
    newest = [event["id"] for event in reversed(events)]
    assert await ids(api, f"?q={word}") == newest, "newest sale first, drafts unseen"
    assert [e["id"] for e in await api.walk(f"{EVENTS}?q={word}", limit=2)] == newest
    everything = [e["id"] for e in await api.walk(f"{EVENTS}?organizer=me", by=own, limit=4)]
    assert sorted(everything) == sorted([*newest, draft["id"]])
    assert await ids(api, "?organizer=me&status=draft", own) == [draft["id"]]
    assert await ids(api, f"?q={word}&status=draft", admin) == [draft["id"]]
    assert await ids(api, f"?q={word}&status=cancelled") == []
    await api.ok("POST", f"{EVENTS}/{newest[0]}/cancel", {"reason": "x"}, by=own)
    assert await ids(api, f"?q={word}&status=cancelled") == newest[:1]
    assert await ids(api, f"?q={word}") == newest[1:]
    await api.refused(401, "unauthenticated", "GET", f"{EVENTS}?organizer=me")
    for query in ("status=open", "status=", "organizer=you", f"organizer={own.id}", "q=%00"):
        await api.refused(422, "invalid_request", "GET", f"{EVENTS}?{query}", by=own)


async def test_a_search_takes_its_words_literally(api: Api):
    for q in ("%", "_%", "\\", "' OR '1'='1", "'; DROP TABLE events.events; --", "%00"[:2]):
        found = await api.ok("GET", EVENTS, params={"q": q + new_id().hex})
        assert found == {"items": [], "next_cursor": None}


async def test_ids_that_are_not_there(api: Api, organizer: Person):
    event = await api.on_sale(organizer)
    kind = event["ticket_types"][0]["id"]
    other = await api.on_sale(organizer)
    nothing = ("x", "1", str(new_id()), "%00", "..%2f", "' OR 1=1", event["id"] + "0", "%ff")
    for missing in nothing:
        path = f"{EVENTS}/{missing}"
        for by in (None, organizer):
            await api.refused(404, "not_found", "GET", path, by=by)
        await api.refused(404, "not_found", "GET", f"{path}/availability")
        await api.refused(404, "not_found", "PATCH", path, {}, by=organizer)
        await api.refused(404, "not_found", "POST", f"{path}/publish", by=organizer)
        await api.refused(404, "not_found", "GET", f"{path}/reservations", by=organizer)
        kinds = f"{EVENTS}/{event['id']}/ticket-types/{missing}"
        await api.refused(404, "not_found", "PATCH", kinds, {"price": 1}, by=organizer)
    elsewhere = f"{EVENTS}/{other['id']}/ticket-types/{kind}"
    await api.refused(404, "not_found", "PATCH", elsewhere, {"price": 1}, by=organizer)

"""The Events section over HTTP: statuses, codes and fields word by word."""

import time
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from litestar.openapi import OpenAPIConfig

from korder.domains.event.api import controllers
from korder.domains.event.service import EventService
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import new_id
from korder.platform.auth import Principal
from korder.platform.http.framework import build_framework
from tests.fakes import FakeInvalidation, FakeReservations, FakeUsers

HUGE = 10**30
LATER = "2099-05-01T19:00:00+09:00"


class Tokens:
    """An authenticator whose tokens are member ids."""

    async def authenticate_fresh(self, authorization: bytes | None) -> Principal:
        try:
            member = UUID((authorization or b"").decode().removeprefix("Bearer "))
        except ValueError:
            raise Refusal(Code.UNAUTHENTICATED) from None
        return Principal(member, member.bytes, new_id(), time.time() + 900)


class Web:
    """A client of the event routes, and the fakes behind them."""

    def __init__(self, client: httpx.AsyncClient, users: FakeUsers, sales: FakeReservations):
        self.client = client
        self.users = users
        self.sales = sales
        self.organizer = self.member("member", "organizer")

    def member(self, *roles: str) -> dict[str, str]:
        """The headers of a new member."""
        member = new_id()
        self.users.roles[member] = frozenset(roles or ("member",))
        return {"Authorization": f"Bearer {member}"}

    async def call(self, method: str, path: str, body=None, *, by=None, status=200, **headers):
        sent = {**(by if by is not None else self.organizer), **headers}
        options = {} if body is None else {"json": body}
        answer = await self.client.request(method, f"/v1/events{path}", headers=sent, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refused(self, method, path, body=None, *, code, status=409, by=None, field=None):
        problem = await self.call(method, path, body, by=by, status=status)
        assert problem["code"] == code
        if field is not None:
            assert field in [error["field"] for error in problem["errors"]]
        return problem

    async def draft(self, **given):
        return await self.call("POST", "", body(**given), status=201)


def body(**given):
    types = [{"name": "R", "price": 50_000, "capacity": 100, "max_per_member": 4}]
    values = {"title": "봄 콘서트", "venue": "Hall 1", "starts_at": LATER, "ticket_types": types}
    values.update(given)
    return {name: value for name, value in values.items() if value is not ...}


@pytest_asyncio.fixture
async def web(pool, clean):
    users, sales = FakeUsers(), FakeReservations()
    service = EventService(pool, sales, users, FakeInvalidation())
    tokens = Tokens()
    app = build_framework(
        [controllers(service, tokens)], tokens, OpenAPIConfig(title="events", version="1")
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test"
    ) as client:
        yield Web(client, users, sales)


async def test_an_event_as_the_contract_shows_it(web: Web):
    event = await web.draft(description="두 시간")
    ticket_type = event["ticket_types"][0]
    assert event == {
        "id": event["id"],
        "organizer_id": web.organizer["Authorization"].removeprefix("Bearer "),
        "title": "봄 콘서트",
        "description": "두 시간",
        "venue": "Hall 1",
        "starts_at": "2099-05-01T10:00:00Z",
        "sale_opens_at": None,
        "sale_closes_at": None,
        "currency": "KRW",
        "hold_seconds": 300,
        "status": "draft",
        "ticket_types": [
            {
                "id": ticket_type["id"],
                "name": "R",
                "price": 50_000,
                "capacity": 100,
                "max_per_member": 4,
            }
        ],
        "created_at": event["created_at"],
        "published_at": None,
        "cancelled_at": None,
        "cancel_reason": None,
    }
    assert event["created_at"].endswith("Z")
    assert UUID(event["id"]).version == UUID(ticket_type["id"]).version == 7


async def test_a_life_over_http(web: Web):
    event = await web.draft()
    path = f"/{event['id']}"
    shown = await web.call("POST", f"{path}/publish")
    assert shown["status"] == "published"
    assert shown["sale_closes_at"] == shown["starts_at"]
    assert await web.call("POST", f"{path}/publish") == shown
    assert await web.call("GET", path, by={}) == shown
    assert await web.call("GET", "", by={}) == {"items": [shown], "next_cursor": None}
    types = f"{path}/ticket-types/{event['ticket_types'][0]['id']}"
    changed = await web.call("PATCH", types, {"capacity": 120})
    assert changed == {**event["ticket_types"][0], "capacity": 120}
    web.sales.committed[UUID(changed["id"])] = 7
    await web.refused("PATCH", types, {"capacity": 6}, code="capacity_below_committed")
    patched = await web.call("PATCH", path, {"title": "New", "sale_closes_at": LATER})
    assert (patched["title"], patched["sale_closes_at"]) == ("New", "2099-05-01T10:00:00Z")
    await web.refused("PATCH", path, {"currency": "USD"}, code="invalid_state")
    off = await web.call("POST", f"{path}/cancel", {"reason": "storm"})
    assert (off["status"], off["cancel_reason"]) == ("cancelled", "storm")
    await web.refused("POST", f"{path}/publish", code="invalid_state")
    await web.refused("PATCH", types, {"capacity": 130}, code="invalid_state")
    listed = await web.call("GET", "?status=cancelled", by={})
    assert [item["id"] for item in listed["items"]] == [event["id"]]
    assert (await web.call("GET", "", by={}))["items"] == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"title": ...}, "title"),
        ({"title": ""}, "title"),
        ({"title": "  "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": "a\0b"}, "title"),
        ({"title": None}, "title"),
        ({"title": 7}, "title"),
        ({"description": "x" * 10_001}, "description"),
        ({"venue": "\0"}, "venue"),
        ({"starts_at": "2099-05-01T19:00:00"}, "starts_at"),
        ({"starts_at": "tomorrow"}, "starts_at"),
        ({"starts_at": 4_000_000_000}, "starts_at"),
        ({"starts_at": "2001-01-01T00:00:00Z"}, "starts_at"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, "starts_at"),
        ({"starts_at": "9999-12-31T23:59:59-10:00"}, "starts_at"),
        ({"sale_opens_at": LATER}, "sale_opens_at"),
        ({"sale_opens_at": LATER, "sale_closes_at": LATER}, "sale_closes_at"),
        ({"sale_closes_at": "2001-01-01T00:00:00Z"}, "sale_closes_at"),
        ({"currency": "krw"}, "currency"),
        ({"currency": "ZZZ"}, "currency"),
        ({"hold_seconds": 4}, "hold_seconds"),
        ({"hold_seconds": 3601}, "hold_seconds"),
        ({"hold_seconds": True}, "hold_seconds"),
        ({"hold_seconds": HUGE}, "hold_seconds"),
        ({"ticket_types": []}, "ticket_types"),
        ({"ticket_types": [{"name": "R", "price": 0, "capacity": 1}] * 51}, "ticket_types"),
        ({"organizer_id": "me"}, "organizer_id"),
        ({"status": "published"}, "status"),
    ],
)
async def test_a_bad_field_is_named(web: Web, given, field):
    await web.refused("POST", "", body(**given), code="invalid_request", status=422, field=field)
    assert (await web.call("GET", "?organizer=me"))["items"] == []


@pytest.mark.parametrize("name", ["price", "capacity", "max_per_member"])
@pytest.mark.parametrize("value", [-1, HUGE, -HUGE, 2**31, 2**63, 1.5, True, "1", [], {}])
async def test_numbers_are_whole_and_within_bounds(web: Web, name, value):
    if (name, value) == ("price", 2**31):
        pytest.skip("a price may be larger")
    types = [{"name": "R", "price": 0, "capacity": 0, name: value}]
    await web.refused("POST", "", body(ticket_types=types), code="invalid_request", status=422)
    event = await web.draft()
    path = f"/{event['id']}/ticket-types/{event['ticket_types'][0]['id']}"
    await web.refused("PATCH", path, {name: value}, code="invalid_request", status=422, field=name)


@pytest.mark.parametrize(
    "name", ["title", "description", "venue", "starts_at", "currency", "hold_seconds"]
)
async def test_what_is_required_cannot_be_taken_away(web: Web, name):
    event = await web.draft()
    await web.refused(
        "PATCH", f"/{event['id']}", {name: None}, code="invalid_request", status=422, field=name
    )


async def test_limits_themselves_are_allowed(web: Web):
    types = [
        {"name": "n" * 200, "price": 10**12, "capacity": 10_000_000, "max_per_member": 100},
        {"name": "n", "price": 0, "capacity": 0},
    ]
    event = await web.draft(
        title="t" * 200, venue="v" * 200, description="d" * 10_000, hold_seconds=5,
        ticket_types=types, currency="USD",
    )  # fmt: skip
    assert event["ticket_types"][0]["price"] == 10**12
    assert event["ticket_types"][1]["max_per_member"] is None
    assert (await web.call("PATCH", f"/{event['id']}", {"hold_seconds": 3600}))["hold_seconds"]


async def test_a_type_patch_knows_only_its_numbers(web: Web):
    event = await web.draft()
    types = f"/{event['id']}/ticket-types/{event['ticket_types'][0]['id']}"
    for unknown in ({"name": "VIP"}, {"id": event["id"]}):
        await web.refused("PATCH", types, unknown, code="invalid_request", status=422)
    await web.refused(
        "PATCH", f"/{event['id']}", {"ticket_types": []}, code="invalid_request", status=422
    )
    free = await web.call("PATCH", types, {"max_per_member": None, "price": 0})
    assert (free["max_per_member"], free["price"], free["capacity"]) == (None, 0, 100)


async def test_roles_and_other_peoples_events(web: Web):
    plain, rival = web.member(), web.member("member", "organizer")
    await web.refused("POST", "", body(), by=plain, code="forbidden", status=403)
    await web.refused("POST", "", body(), by={}, code="unauthenticated", status=401)
    event = await web.draft()
    path = f"/{event['id']}"
    for who in ({}, plain, rival):
        await web.refused("GET", path, by=who, code="not_found", status=404)
    await web.call("GET", path, by=web.member("admin"))
    await web.call("POST", f"{path}/publish")
    for method, rest, sent in (
        ("PATCH", "", {"title": "x"}),
        ("POST", "/publish", None),
        ("POST", "/cancel", {"reason": "x"}),
    ):
        await web.refused(method, path + rest, sent, by=rival, code="not_found", status=404)
        await web.refused(method, path + rest, sent, by={}, code="unauthenticated", status=401)


async def test_a_token_that_is_sent_must_be_good(web: Web):
    event = await web.draft()
    await web.call("POST", f"/{event['id']}/publish")
    bad = {"Authorization": "Bearer nonsense"}
    for path in ("", f"/{event['id']}"):
        await web.refused("GET", path, by=bad, code="unauthenticated", status=401)
    await web.refused("GET", "?organizer=me", by={}, code="unauthenticated", status=401)


@pytest.mark.parametrize("path", ["/nonsense", f"/{UUID(int=0)}", "/1", "/%00"])
async def test_what_is_not_there_is_not_found(web: Web, path):
    await web.refused("GET", path, code="not_found", status=404)
    await web.refused("POST", f"{path}/publish", code="not_found", status=404)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor=%00", "cursor=" + "A" * 32,
     "status=sold", "organizer=you", "q=%00", "q=" + "x" * 201, f"limit={HUGE}"],
)  # fmt: skip
async def test_bad_queries_are_refused(web: Web, query):
    await web.refused("GET", f"?{query}", code="invalid_request", status=422)


async def test_pages_fit_together(web: Web):
    for n in range(5):
        event = await web.draft(title=f"E{n}")
        await web.call("POST", f"/{event['id']}/publish")
    found, cursor = [], ""
    while cursor is not None:
        page = await web.call("GET", f"?limit=2{cursor and '&cursor=' + cursor}", by={})
        found += [item["title"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == ["E4", "E3", "E2", "E1", "E0"]


async def test_a_key_replays_its_answer(web: Web):
    sent = {**web.organizer, "Idempotency-Key": "once"}
    first = await web.client.post("/v1/events", json=body(), headers=sent)
    again = await web.client.post("/v1/events", json=body(), headers=sent)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await web.client.post("/v1/events", json=body(title="B"), headers=sent)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")


@pytest.mark.parametrize(
    "raw", [b"{", b"", b"\xff", b'"text"', b"[]", b"null", b'{"title":"\\ud800"}']
)
async def test_a_body_that_is_no_event_changes_nothing(web: Web, raw):
    answer = await web.client.post("/v1/events", content=raw, headers=web.organizer)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] == "invalid_request"


async def test_sql_in_every_string_is_only_text(web: Web):
    evil = "'; DROP TABLE events.events; -- %s $1 {x}"
    event = await web.draft(
        title=evil,
        venue=evil,
        description=evil,
        ticket_types=[{"name": evil, "price": 1, "capacity": 1}],
    )
    assert [event["title"], event["ticket_types"][0]["name"]] == [evil, evil]
    await web.call("POST", f"/{event['id']}/publish")
    listed = await web.client.get("/v1/events", params={"q": evil})
    assert [item["id"] for item in listed.json()["items"]] == [event["id"]]


async def test_openapi_says_what_the_routes_do(web: Web):
    schema = (await web.client.get("/schema/openapi.json")).json()
    paths = {path: set(item) for path, item in schema["paths"].items()}
    assert paths == {
        "/v1/events": {"get", "post"},
        "/v1/events/{event_id}": {"get", "patch"},
        "/v1/events/{event_id}/publish": {"post"},
        "/v1/events/{event_id}/cancel": {"post"},
        "/v1/events/{event_id}/ticket-types/{ticket_type_id}": {"patch"},
    }
    assert set(schema["paths"]["/v1/events"]["post"]["responses"]) >= {"201", "401", "403", "422"}
    assert "200" in schema["paths"]["/v1/events/{event_id}/publish"]["post"]["responses"]

"""Bad bodies and queries: the right refusal, never a 5xx, and nothing that is stored changes."""

import json
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.contract import bad
from tests.contract.bad import Route
from tests.contract.client import Api, Person

pytestmark = pytest.mark.usefixtures("unchanged")
ALL = pytest.mark.parametrize("route", bad.ROUTES, ids=lambda route: route.name)
FIELDS = [(route, field) for route in bad.ROUTES for field in route.bad]


@dataclass
class Stage:
    """Where the bad requests go, and who sends them."""

    api: Api
    people: dict[str, Person]
    names: dict[str, str]

    async def send(self, route: Route, **options: Any) -> httpx.Response:
        by = self.people.get(route.by)
        return await self.api.call(route.method, self.fill(route.path), by=by, **options)

    def fill(self, text: str) -> str:
        return text.format(**self.names)

    def body(self, route: Route, **changes: Any) -> dict[str, Any]:
        """The body that the route would take, with changes; `...` leaves a field out."""
        filled = {
            name: self.fill(value) if isinstance(value, str) else value
            for name, value in route.body.items()
        }
        return {name: value for name, value in {**filled, **changes}.items() if value is not ...}


@pytest_asyncio.fixture(scope="module")
async def stage(api: Api, organizer: Person, admin: Person) -> Stage:
    """An event on sale and everybody who could be sent."""
    member = await api.person()
    event = await api.on_sale(organizer)
    return Stage(
        api,
        {"organizer": organizer, "admin": admin, "member": member},
        {"event": event["id"], "kind": event["ticket_types"][0]["id"], "member": member.id},
    )


@pytest_asyncio.fixture(autouse=True)
async def before(stage: Stage, unchanged: None) -> None:
    """The stage stands before what is stored is looked at."""


def assert_refused(response: httpx.Response, route: Route, told: Any) -> None:
    allowed = {(422, "invalid_request")} | ({(401, "unauthenticated")} if route.loose else set())
    got = (response.status_code, response.json()["code"])
    assert got in allowed, f"{route.name} {str(told)[:200]}: {got} {response.text[:300]}"


@pytest.mark.parametrize(
    ("route", "field"), FIELDS, ids=[f"{route.name} {field}" for route, field in FIELDS]
)
async def test_a_field_with_a_bad_value(stage: Stage, route: Route, field: str):
    for value in route.bad[field]:
        response = await stage.send(route, body=stage.body(route, **{field: value}))
        assert_refused(response, route, (field, value))


@ALL
async def test_half_a_surrogate_pair_does_not_parse(stage: Stage, route: Route):
    for field, value in route.body.items():
        if isinstance(value, str):
            response = await stage.send(route, body=stage.body(route, **{field: bad.SURROGATE}))
            assert (response.status_code, response.json()["code"]) == (400, "invalid_request")


@ALL
async def test_a_field_that_is_missing(stage: Stage, route: Route):
    if route.method == "PATCH":
        return  # a patch may leave out what it likes
    for field in route.body:
        if field in ("description", "sale_opens_at", "sale_closes_at", "currency", "hold_seconds"):
            continue
        response = await stage.send(route, body=stage.body(route, **{field: ...}))
        assert_refused(response, Route(*route[:5]), field)
        assert field in [error["field"] for error in response.json()["errors"]]


@ALL
async def test_an_unknown_field(stage: Stage, route: Route):
    for name in (
        "id",
        "roles ",
        "is_admin",
        "member_id",
        "status",
        "__proto__",
        "",
        "é",
        bad.SQL[0],
    ):
        response = await stage.send(route, body={**stage.body(route), name: 1})
        assert_refused(response, Route(*route[:5]), name)


@ALL
@pytest.mark.parametrize("name", bad.BROKEN)
async def test_what_is_no_json(stage: Stage, route: Route, name: str):
    response = await stage.send(route, content=bad.BROKEN[name])
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request"), (
        response.text
    )


@ALL
@pytest.mark.parametrize("name", bad.SHAPES)
async def test_json_of_another_shape(stage: Stage, route: Route, name: str):
    response = await stage.send(route, content=bad.SHAPES[name])
    assert_refused(response, Route(*route[:5]), name)


@ALL
async def test_the_last_of_equal_names_counts(stage: Stage, route: Route):
    """Nothing is let through on the strength of a value that is then not the one used."""
    for field, values in route.bad.items():
        good = json.dumps(stage.body(route)).encode()
        doubled = good[:-1] + b', "%b": %b}' % (field.encode(), json.dumps(values[1]).encode())
        response = await stage.send(route, content=doubled)
        assert_refused(response, route, (field, values[1]))


@ALL
async def test_a_body_of_a_megabyte(stage: Stage, route: Route):
    for content in (b'{"x": "' + b"a" * 1_000_000 + b'"}', b" " * 1_000_000, b"[" * 1_000_000):
        response = await stage.send(route, content=content)
        assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


async def test_ticket_types_with_bad_numbers(stage: Stage):
    (route,) = [route for route in bad.ROUTES if route.name == "POST /v1/events"]
    good = {"name": "R", "price": 1, "capacity": 1, "max_per_member": 1}
    (numbers,) = [route.bad for route in bad.ROUTES if "ticket-types" in route.path]
    cases = {"name": (*bad.TEXTS, "", " "), **numbers}
    for field, values in cases.items():
        for value in values:
            kinds = [good, {**good, field: value}]
            response = await stage.send(route, body=stage.body(route, ticket_types=kinds))
            assert_refused(response, route, (field, value))
    many = [good] * 1000
    assert_refused(
        await stage.send(route, body=stage.body(route, ticket_types=many)), route, "many"
    )


@pytest.mark.parametrize("place", bad.QUERIES, ids=" ".join)
async def test_a_bad_query(stage: Stage, place: tuple[str, str, str]):
    path, by, name = place
    for value in bad.QUERIES[place]:
        problem = await stage.api.refused(
            422,
            "invalid_request",
            "GET",
            f"{stage.fill(path)}?{name}={value}",
            by=stage.people.get(by),
        )
        assert [error["field"] for error in problem["errors"]] == [name], value


async def test_a_query_that_is_odd_but_harmless(stage: Stage):
    queries = (
        "",
        "&&&",
        "=",
        "%",
        "%zz",
        "q=%ff",
        "q=%ed%a0%80",
        "q",
        "limit=5&limit=6",
        "x" * 4000,
    )
    for query in (*queries, "q=" + bad.SQL[0], "q=%25", "unknown=1", "unknown=%00"):
        response = await stage.api.call("GET", f"/v1/events?{query}")
        assert response.status_code in (200, 422), query

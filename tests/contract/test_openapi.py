"""`/openapi.json` is valid OpenAPI 3.1 and says what the contract says."""

from typing import Any

import jsonschema_rs
import pytest
import pytest_asyncio

from tests.contract.client import Api

#: (method, path, statuses of success) of the contract's sections that exist.
ROUTES = """
POST /v1/auth/signup 201
POST /v1/auth/login 200
POST /v1/auth/refresh 200
POST /v1/auth/logout 204
GET /.well-known/jwks.json 200
GET /v1/users/me 200
PATCH /v1/users/me 200
DELETE /v1/users/me 204
GET /v1/users/me/points 200
GET /v1/users 200
PUT /v1/users/{id}/roles 200
POST /v1/users/{id}/points 201
POST /v1/events 201
POST /v1/events/{id}/publish 200
POST /v1/events/{id}/cancel 200
GET /v1/events 200
GET /v1/events/{id} 200
PATCH /v1/events/{id} 200
PATCH /v1/events/{id}/ticket-types/{id} 200
GET /v1/events/{id}/availability 200
POST /v1/reservations 201 202
GET /v1/reservations/{id} 200
GET /v1/reservations 200
POST /v1/reservations/{id}/cancel 200
GET /v1/events/{id}/reservations 200
GET /health/live 200
GET /health/ready 200
GET /metrics 200
GET /openapi.json 200
GET /docs 200
"""
PUBLIC = {
    "/v1/auth/signup", "/v1/auth/login", "/v1/auth/refresh", "/.well-known/jwks.json",
    "/v1/events/{id}/availability", "/health/live", "/health/ready", "/metrics", "/openapi.json",
    "/docs",
}  # fmt: skip
KEYED = {"/v1/auth/signup", "/v1/users/{id}/points", "/v1/events", "/v1/reservations"}


@pytest_asyncio.fixture
async def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = await api.ok("GET", "/openapi.json")
    return found


def plain(path: str) -> str:
    """Whatever its ids are called."""
    parts = path.split("/")
    return "/".join("{id}" if part.startswith("{") else part for part in parts)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), plain(path)): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_it_is_valid(document: dict[str, Any]):
    assert document["openapi"].startswith("3.1")
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )
        assert name
    text = str(document)
    for part in text.split("'#/components/schemas/")[1:]:
        assert part.split("'")[0] in document["components"]["schemas"], "a reference to nothing"
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("line", ROUTES.split("\n")[1:-1])
def test_every_route_of_the_contract_is_in_it(document: dict[str, Any], line: str):
    method, path, *statuses = line.split()
    operation = operations(document)[method, path]
    responses = operation["responses"]
    assert [status for status in responses if status.startswith("2")] == statuses
    for status, response in responses.items():
        assert "X-Request-Id" in response["headers"]
        if status in ("202", "429", "503"):
            assert "Retry-After" in response["headers"]
        if status[0] in "4d":
            assert list(response["content"]) == ["application/problem+json"]


def test_who_may_call_what(document: dict[str, Any]):
    for (method, path), operation in operations(document).items():
        security = operation.get("security", [])
        optional = {} in security or not security
        if path in PUBLIC:
            assert not security, (method, path)
        elif (method, path) in {
            ("GET", "/v1/events"),
            ("GET", "/v1/events/{id}"),
            ("POST", "/v1/auth/logout"),
        }:
            assert optional, (method, path)
            assert {"bearer": []} in security, (method, path)
        else:
            assert security == [{"bearer": []}], (method, path)
            assert "401" in operation["responses"], (method, path)


def test_bodies_are_closed_and_bounded(document: dict[str, Any]):
    schemas = document["components"]["schemas"]
    for call, operation in operations(document).items():
        if "requestBody" in operation:
            (media,) = operation["requestBody"]["content"].values()
            body = schemas[media["schema"]["$ref"].rsplit("/", 1)[1]]
            assert body["additionalProperties"] is False, call
            assert {"400", "413", "422"} <= set(operation["responses"]), call
    quantity = schemas["ReserveBody"]["properties"]["quantity"]
    assert (quantity["minimum"], quantity["maximum"]) == (1, 100)
    password = schemas["SignupBody"]["properties"]["password"]
    assert (password["minLength"], password["maxLength"]) == (10, 128)
    hold = schemas["EventBody"]["properties"]["hold_seconds"]
    assert (hold["minimum"], hold["maximum"]) == (5, 3600)


def test_creating_posts_take_a_key(document: dict[str, Any]):
    for (method, path), operation in operations(document).items():
        names = {parameter["name"] for parameter in operation.get("parameters", ())}
        assert ("Idempotency-Key" in names) == (method == "POST" and path in KEYED), path


def test_lists_have_limit_and_cursor(document: dict[str, Any]):
    for path in (
        "/v1/events",
        "/v1/reservations",
        "/v1/users",
        "/v1/users/me/points",
        "/v1/events/{id}/reservations",
    ):
        parameters = {p["name"]: p for p in operations(document)["GET", path]["parameters"]}
        limit = parameters["limit"]["schema"]
        assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 100, 20), path
        assert "cursor" in parameters

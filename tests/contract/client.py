"""A client that checks on every answer what the contract says of all answers."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx
import jwt

from korder.kernel.errors import Code
from korder.kernel.ids import new_id
from korder.platform.http.problem import STATUS

PASSWORD = "correct horse battery"
PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "instance"}
WAIT_S = 10.0
#: Rows that a clock or a sign-in changes; everything else must not move by itself.
LIVELY = {"shard_leases", "workers", "outbox", "sessions", "refresh_tokens", "signing_keys"}


class Person(NamedTuple):
    """A member with an access token."""

    id: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class Api:
    """The running system as its clients see it; `people` are minted members not used yet."""

    def __init__(self, http: httpx.AsyncClient, db: asyncpg.Pool, secrets: set[str]) -> None:
        self.http = http
        self.db = db
        self.secrets = secrets
        self.people: list[str] = []

    # -- calling

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: Person | None = None,
        content: Any = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send one request; the answer is checked against the conventions."""
        sent = {**(by.headers if by else {}), **(headers or {})}
        if body is not None:
            # As ASCII, so that lone surrogates travel as the escapes they are.
            content = json.dumps(body).encode()
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        response = await self.http.request(method, path, content=content, headers=sent, **options)
        check_conventions(response)
        return response

    async def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The decoded body of an answer that must be a success; None when there is none."""
        response = await self.call(method, path, body, **options)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    async def refused(
        self, status: int, code: str, method: str, path: str, body: Any = None, **options: Any
    ) -> dict[str, Any]:
        """The problem of an answer that must be this refusal."""
        response = await self.call(method, path, body, **options)
        told = f"{method} {path}: {response.status_code} {response.text}"
        assert response.status_code == status, told
        problem: dict[str, Any] = response.json()
        assert problem["code"] == code, told
        return problem

    async def walk(self, path: str, *, by: Person | None = None, limit: int = 2) -> list[Any]:
        """All items of a list, page by page."""
        found: list[Any] = []
        cursor = None
        joint = "&" if "?" in path else "?"
        for _ in range(100):
            place = f"&cursor={cursor}" if cursor else ""
            response = await self.call("GET", f"{path}{joint}limit={limit}{place}", by=by)
            assert response.status_code == 200, response.text
            page = response.json()
            assert len(page["items"]) <= limit
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found
        raise AssertionError(f"{path} has no last page")

    # -- what tests start from

    async def person(self, *roles: str) -> Person:
        """A new member who is signed in."""
        token = self.people.pop()
        self.secrets.add(token)
        member = jwt.decode(token, options={"verify_signature": False})["sub"]
        if roles:
            await self.db.execute(
                "UPDATE users.members SET roles = $2 WHERE id = $1",
                UUID(member),
                ["member", *roles],
            )
        return Person(member, token)

    async def signed_up(self, **more: Any) -> dict[str, Any]:
        """A member who signed up: `{email, password, member}`."""
        email = more.pop("email", f"{new_id()}@example.com")
        password = more.pop("password", PASSWORD)
        self.secrets.add(password)
        body = {"email": email, "password": password, "name": "민아", **more}
        member = await self.ok("POST", "/v1/auth/signup", body)
        return {"email": email, "password": password, "member": member}

    async def login(self, account: dict[str, Any]) -> dict[str, Any]:
        """The tokens of a sign-in."""
        body = {"email": account["email"], "password": account["password"]}
        return self.noted(await self.ok("POST", "/v1/auth/login", body))

    def noted(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """The same tokens, which no log may show."""
        self.secrets |= {tokens["access_token"], tokens["refresh_token"]}
        return tokens

    async def draft(self, organizer: Person, **given: Any) -> dict[str, Any]:
        """A new event of this organizer."""
        event: dict[str, Any] = await self.ok(
            "POST", "/v1/events", event_body(**given), by=organizer
        )
        return event

    async def on_sale(self, organizer: Person, **given: Any) -> dict[str, Any]:
        """A new, published event."""
        event = await self.draft(organizer, **given)
        published: dict[str, Any] = await self.ok(
            "POST", f"/v1/events/{event['id']}/publish", by=organizer
        )
        return published

    async def reserve(
        self, by: Person, event: dict[str, Any], quantity: Any = 1, **options: Any
    ) -> httpx.Response:
        """One request for tickets of the event's first type."""
        return await self.call("POST", "/v1/reservations", wish(event, quantity), by=by, **options)

    async def held(self, by: Person, event: dict[str, Any], quantity: int = 1) -> dict[str, Any]:
        """A reservation that is held."""
        response = await self.reserve(by, event, quantity)
        assert response.status_code == 201, response.text
        reservation: dict[str, Any] = response.json()
        return reservation

    async def left(self, event: dict[str, Any]) -> dict[str, Any]:
        """What is left of the event's first ticket type."""
        counts = await self.ok("GET", f"/v1/events/{event['id']}/availability")
        found: dict[str, Any] = counts["ticket_types"][0]
        return found

    # -- what is stored

    async def stored(self) -> dict[str, tuple[int, str | None]]:
        """Rows and content of every table that does not move by itself, by name."""
        tables = await self.db.fetch(
            "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace::regnamespace::text IN ('users', 'events', 'reservations')"
            " AND relname <> ALL($1::text[]) ORDER BY 1",
            list(LIVELY),
        )
        return {row["name"]: await self._content(row["name"]) for row in tables}

    async def _content(self, table: str) -> tuple[int, str | None]:
        # The name is out of the catalogue.
        digest = "md5(string_agg(t::text, ',' ORDER BY t::text))"
        query = f"SELECT count(*) AS rows, {digest} AS digest FROM {table} t"  # noqa: S608
        row = await self.db.fetchrow(query)
        return row["rows"], row["digest"]


def event_body(**given: Any) -> dict[str, Any]:
    """A new event; a ticket type's fields may be given as well, and `...` leaves a field out."""
    kinds = {"name": "R", "price": 50_000, "capacity": 10, "max_per_member": None}
    kinds |= {
        name: given.pop(name) for name in ("price", "capacity", "max_per_member") if name in given
    }
    body = {
        "title": "봄 콘서트",
        "venue": "Hall 1",
        "starts_at": in_s(86_400),
        "ticket_types": [kinds],
    }
    return {name: value for name, value in {**body, **given}.items() if value is not ...}


def wish(event: dict[str, Any], quantity: Any = 1) -> dict[str, Any]:
    """The body of a reservation of the event's first ticket type."""
    ticket_type = event["ticket_types"][0]["id"]
    return {"event_id": event["id"], "ticket_type_id": ticket_type, "quantity": quantity}


def in_s(seconds: float) -> str:
    """An instant from now, as JSON has it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def eventually(
    ask: Callable[[], Awaitable[Any]], right: Callable[[Any], bool], wait_s: float = WAIT_S
) -> Any:
    """The first answer that is right; fails with the last wrong one."""
    deadline = time.monotonic() + wait_s
    while True:
        found = await ask()
        if right(found):
            return found
        assert time.monotonic() < deadline, f"still {found} after {wait_s} s"
        await asyncio.sleep(0.05)


def check_conventions(response: httpx.Response) -> None:
    """What holds for every answer; raises AssertionError."""
    told = f"{response.request.method} {response.request.url}: {response.status_code}"
    told += f" {response.text[:500]}"
    assert response.status_code < 500, told
    assert response.headers["x-request-id"], told
    if response.status_code in (202, 429, 503):
        assert int(response.headers["retry-after"]) >= 0, told
    if response.status_code >= 400 and response.request.method != "HEAD":
        check_problem(response, told)
    elif response.status_code == 204:
        assert response.content == b""


def check_problem(response: httpx.Response, told: str = "") -> None:
    """The answer is well-formed problem details (RFC 9457)."""
    assert response.headers["content-type"] == "application/problem+json", told
    assert response.headers["content-language"] in ("ko", "en"), told
    problem = response.json()
    assert set(problem) - {"errors"} == PROBLEM_FIELDS, told
    code = Code(problem["code"])
    malformed = code is Code.INVALID_REQUEST and response.status_code == 400
    assert response.status_code == problem["status"], told
    assert malformed or response.status_code == STATUS[code], told
    assert all(
        isinstance(problem[name], str) and problem[name] for name in PROBLEM_FIELDS - {"status"}
    )
    assert ("errors" in problem) == (code is Code.INVALID_REQUEST), told
    check_errors(problem.get("errors", ()), told)
    if response.status_code == 401:
        assert response.headers["www-authenticate"].startswith("Bearer"), told


def check_errors(errors: Iterable[dict[str, Any]], told: str) -> None:
    for error in errors:
        assert set(error) == {"field", "message"}, told
        assert error["field"], told
        assert error["message"], told

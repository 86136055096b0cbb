"""What every answer does: request ids, languages, bodies' bounds, lists, media types."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from korder.kernel.errors import Code, Refusal, overloaded
from korder.platform.http.problem import answer_of
from tests.contract.client import Api, Person, event_body, wish

BODY_MAX = 65_536
SANE = ["a", "7f3c", "req-1.2:3_4", "A" * 128, "01985f5e-7d1b-7c4e-b3a3-9f8b8f6f0a11"]
NOT_SANE = ["", "A" * 129, "a b", "<script>", "a\tb", "ü".encode().decode("latin-1"), "a;b", '"a"']
#: Accept-Language -> what is answered.
LANGUAGES = {
    "ko": "ko",
    "en": "en",
    "ko-KR,ko;q=0.9,en-US;q=0.8,en;q=0.7": "ko",
    "en-US,en;q=0.9,ko;q=0.8": "en",
    "en;q=0.1, ko;q=0.9": "ko",
    "fr, de;q=0.9": "en",
    "fr, ko;q=0.1": "ko",
    "ko;q=0": "en",
    "ko;q=0, en;q=0.1": "en",
    "KO-kr": "ko",
    "*": "en",
    "ko;q=nan, en;q=0.1": "en",
    "ko;q=x;y=z": "en",
    ";;;,,,": "en",
}
PATHS = ["/v1/users/me", "/v1/events/nope", "/nowhere", "/v1/reservations"]


@pytest.mark.parametrize("path", ["/health/live", *PATHS])
async def test_a_sane_request_id_is_kept(api: Api, path: str):
    for given in SANE:
        response = await api.call("GET", path, headers={"X-Request-Id": given})
        assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("path", ["/health/live", *PATHS])
async def test_another_request_id_is_replaced(api: Api, path: str):
    seen = set()
    for given in NOT_SANE:
        response = await api.call("GET", path, headers={"X-Request-Id": given.encode("latin-1")})
        (told,) = response.headers.get_list("x-request-id")
        assert told != given
        seen.add(told)
    assert len(seen) == len(NOT_SANE), "each request has an id of its own"


@pytest.mark.parametrize(("accept", "language"), LANGUAGES.items())
async def test_texts_follow_accept_language(api: Api, accept: str, language: str):
    for path in PATHS:
        response = await api.call("GET", path, headers={"Accept-Language": accept})
        assert response.headers["content-language"] == language
        problem = response.json()
        for text in (problem["title"], problem["detail"]):
            assert any("가" <= letter <= "힣" for letter in text) == (language == "ko"), text


async def test_field_messages_follow_accept_language(api: Api):
    korean, english = [
        (await api.call("POST", "/v1/auth/login", {}, headers={"Accept-Language": tag})).json()
        for tag in ("ko", "en")
    ]
    assert korean["errors"][0]["message"] == "필요한 값입니다."
    assert english["errors"][0]["message"] == "This is required."
    assert korean["code"] == english["code"] == "invalid_request"


async def test_json_is_the_media_type(api: Api, organizer: Person):
    event = await api.on_sale(organizer)
    for path in (
        "/v1/events",
        f"/v1/events/{event['id']}",
        f"/v1/events/{event['id']}/availability",
        "/v1/users/me",
        "/v1/reservations",
        "/health/live",
        "/.well-known/jwks.json",
    ):
        by = organizer if path != f"/v1/events/{event['id']}" else None
        response = await api.call("GET", path, by=by)
        assert response.headers["content-type"] == "application/json", path
    made = await api.reserve(await api.person(), event)
    assert made.headers["content-type"] == "application/json"


def padded(body: bytes, size: int) -> bytes:
    """The same JSON, with blanks up to this many bytes."""
    return body[:-1] + b" " * (size - len(body)) + body[-1:]


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


TAKERS = ["/v1/auth/login", "/v1/events", "/v1/reservations"]


@pytest.mark.parametrize("path", TAKERS)
@pytest.mark.parametrize("size", [BODY_MAX + 1, 1_000_000])
@pytest.mark.parametrize("framed", ["with its length", "in chunks"])
@pytest.mark.usefixtures("unchanged")
async def test_a_body_over_64_kib_is_too_large(
    api: Api, organizer: Person, path: str, size: int, framed: str
):
    body = padded(b"{}", size)
    content = body if framed == "with its length" else chunks(body)
    problem = await api.refused(
        413, "payload_too_large", "POST", path, by=organizer, content=content
    )
    assert str(BODY_MAX) in problem["detail"]


@pytest.mark.parametrize("framed", ["with its length", "in chunks"])
async def test_a_body_that_nobody_reads_has_its_bound(api: Api, organizer: Person, framed: str):
    event = await api.draft(organizer)
    body = padded(b"{}", 200_000)
    content = body if framed == "with its length" else chunks(body)
    path = f"/v1/events/{event['id']}"
    await api.refused(
        413, "payload_too_large", "POST", f"{path}/publish", by=organizer, content=content
    )
    assert await api.ok("GET", path, by=organizer) == event


@pytest.mark.parametrize("path", TAKERS)
@pytest.mark.usefixtures("unchanged")
async def test_a_client_that_hangs_up_is_no_failure(api: Api, organizer: Person, path: str):
    """In the middle of its body; what the log and the metrics say of it is looked at last."""
    for head in (b"Content-Length: 50", b"Transfer-Encoding: chunked"):
        url = api.http.base_url
        _, writer = await asyncio.open_connection(url.host, url.port)
        token = organizer.token.encode()
        lines = [
            b"POST %b HTTP/1.1" % path.encode(),
            b"Host: x",
            head,
            b"Authorization: Bearer " + token,
        ]
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + b'2\r\n{"')
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("path", TAKERS)
@pytest.mark.parametrize("framed", ["with its length", "in chunks"])
async def test_a_body_of_64_kib_is_read(api: Api, organizer: Person, path: str, framed: str):
    body = padded(b"{}", BODY_MAX)
    content = body if framed == "with its length" else chunks(body)
    await api.refused(422, "invalid_request", "POST", path, by=organizer, content=content)


async def test_limit_is_20_unless_given_and_at_most_100(api: Api, organizer: Person, admin: Person):
    for path, by in (
        ("/v1/events", organizer),
        ("/v1/reservations", organizer),
        ("/v1/users", admin),
        ("/v1/users/me/points", organizer),
    ):
        assert len((await api.ok("GET", path, by=by))["items"]) <= 20
        await api.ok("GET", f"{path}?limit=1", by=by)
        await api.ok("GET", f"{path}?limit=100", by=by)
        for bad in ("0", "-1", "101", "9" * 40, "x", "", "1.5", "true", "null", "1%00"):
            await api.refused(422, "invalid_request", "GET", f"{path}?limit={bad}", by=by)
    assert len((await api.ok("GET", "/v1/users", by=admin))["items"]) == 20


async def test_a_cursor_that_is_not_ours_is_refused(api: Api, organizer: Person, admin: Person):
    own = await api.person("organizer")
    for _ in range(2):
        await api.draft(own)
    page = await api.ok("GET", "/v1/events?organizer=me&limit=1", by=own)
    paths = {"/v1/events": organizer, "/v1/reservations": organizer, "/v1/users": admin}
    for path, by in {**paths, "/v1/users/me/points": organizer}.items():
        for bad in ("", "x", "%00", "AAAA", "ü", "=" * 8, "A" * 600, "' OR 1=1 --", "-" * 32):
            answer = await api.call("GET", path, by=by, params={"cursor": bad})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), bad
    for path, by in {"/v1/reservations": organizer, "/v1/users": admin}.items():
        params = {"cursor": page["next_cursor"]}  # ours, but of another list
        assert (await api.call("GET", path, by=by, params=params)).status_code == 422


async def test_ids_and_times_have_their_form(api: Api, organizer: Person):
    event = await api.on_sale(organizer)
    made = await api.held(await api.person(), event)
    for found in (event["id"], event["ticket_types"][0]["id"], made["id"], organizer.id):
        assert UUID(found).version == 7
        assert found == str(UUID(found))
    for at in (event["starts_at"], event["created_at"], made["created_at"], made["expires_at"]):
        assert at.endswith("Z")
        assert "T" in at


async def test_an_unknown_path_and_a_wrong_method(api: Api):
    await api.refused(404, "not_found", "GET", "/v2/events")
    for method, path, allowed in (
        ("PUT", "/v1/reservations", {"GET", "POST"}),
        ("DELETE", "/v1/events", {"GET", "POST"}),
        ("POST", "/health/live", {"GET", "HEAD"}),
        ("DELETE", f"/v1/events/{UUID(int=7)}", {"GET", "PATCH"}),
        ("POST", f"/v1/events/{UUID(int=7)}/availability", {"GET", "HEAD"}),
    ):
        response = await api.call(method, path)
        assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed"), path
        assert allowed <= {name.strip() for name in response.headers["allow"].split(",")}


async def test_the_type_of_a_body_is_json_whatever_it_is_called(api: Api, organizer: Person):
    """A JSON body under another name is read; a form is no JSON."""
    for kind in ("application/json; charset=utf-8", "text/plain", "application/x-json"):
        made = await api.call(
            "POST", "/v1/events", event_body(), by=organizer, headers={"Content-Type": kind}
        )
        assert made.status_code == 201
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in TAKERS:
        await api.refused(
            400, "invalid_request", "POST", path, by=organizer, content=b"a=b", headers=form
        )


@pytest.mark.parametrize("refusal", [overloaded(), overloaded(7), Refusal(Code.RATE_LIMITED)])
def test_try_again_says_when(refusal: Refusal):
    """A healthy system does not say so: the edge is asked directly."""
    status, headers, _ = answer_of(refusal, "en", "/")
    assert status in (429, 503)
    assert int(dict(headers)[b"retry-after"]) == (refusal.retry_after_s or 1)


async def test_what_is_stored_is_looked_at(api: Api, organizer: Person, admin: Person):
    """The negative control of `unchanged`: whatever changes, it sees."""
    event = await api.on_sale(organizer)
    member = await api.person()
    points = f"/v1/users/{member.id}/points"
    changes = [
        ("POST", "/v1/events", event_body(), organizer),
        ("PATCH", f"/v1/events/{event['id']}", {"title": "x"}, organizer),
        ("POST", "/v1/reservations", wish(event), member),
        ("PATCH", "/v1/users/me", {"name": "x"}, member),
        ("POST", points, {"delta": 1, "reason": "x"}, admin),
    ]
    for method, path, body, by in changes:
        before = await api.stored()
        assert before == await api.stored()
        await api.ok(method, path, body, by=by)
        assert before != await api.stored(), path

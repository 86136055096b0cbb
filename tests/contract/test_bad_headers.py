"""Odd headers: keys, preferences, languages, ids, lengths."""

import pytest

from korder.kernel.ids import new_id
from tests.contract.client import PASSWORD, Api, Person, event_body, wish

#: 1 to 255 visible ASCII characters.
GOOD_KEYS = ["x", "k" * 255, "!~", '"quoted"', "a,b;c=d", "' OR 1=1 --".replace(" ", "")]
BAD_KEYS = [
    "",
    "k" * 256,
    "k" * 5000,
    "two words",
    "tab\there",
    "é",
    "키".encode().decode("latin-1"),
]


def creating(event) -> dict[str, tuple[str, dict]]:
    """POST routes that create: (who, body) by path."""
    return {
        "/v1/auth/signup": ("", {"email": f"{new_id()}@b.c", "password": PASSWORD, "name": "n"}),
        "/v1/users/{member}/points": ("admin", {"delta": 1, "reason": "r"}),
        "/v1/events": ("organizer", event_body()),
        "/v1/reservations": ("member", wish(event)),
    }


async def test_keys_are_visible_ascii(api: Api, organizer: Person, admin: Person, member: Person):
    event = await api.on_sale(organizer, capacity=100)
    people = {"admin": admin, "organizer": organizer, "member": member}
    before = await api.stored()
    for path, (by, body) in creating(event).items():
        called = path.format(member=member.id)
        for key in BAD_KEYS:
            headers = {"Idempotency-Key": key.encode("latin-1")}
            problem = await api.refused(
                422, "invalid_request", "POST", called, body, by=people.get(by), headers=headers
            )
            assert [error["field"] for error in problem["errors"]] == ["Idempotency-Key"], key
    assert await api.stored() == before, "nothing was made"
    for path, (by, body) in creating(event).items():
        for key in GOOD_KEYS:
            if path == "/v1/auth/signup":
                key, body = f"{new_id()}{key}"[:255], {**body, "email": f"{new_id()}@b.c"}  # noqa: PLW2901
            first, again = [
                await api.call(
                    "POST",
                    path.format(member=member.id),
                    body,
                    by=people.get(by),
                    headers={"Idempotency-Key": key},
                )
                for _ in range(2)
            ]
            assert (first.status_code, again.status_code) == (201, 201), first.text
            assert first.content == again.content
            assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    "prefer", ["", "wait", "wait=-1", "handling=lenient", "x" * 5000, ";;,,", "\xff"]
)
async def test_other_preferences_are_ignored(
    api: Api, organizer: Person, member: Person, prefer: str
):
    event = await api.on_sale(organizer)
    response = await api.reserve(member, event, headers={"Prefer": prefer.encode("latin-1")})
    assert response.status_code == 201
    assert "preference-applied" not in response.headers


async def test_odd_languages(api: Api):
    for accept in (
        "",
        ",",
        "ko" * 5000,
        "ko;q=",
        "ko;q=1e999",
        "en;q=-1",
        "\xff",
        "x-" * 2000,
        "ko;q=0.5;q=1",
    ):
        headers = {"Accept-Language": accept.encode("latin-1")}
        for path in ("/v1/users/me", "/v1/events/x"):
            assert (await api.call("GET", path, headers=headers)).status_code in (401, 404)


async def test_a_length_that_is_none(api: Api, member: Person):
    """Refused by the server or by us, whoever reads it first; never a 5xx."""
    for length in ("-1", "abc", "1e3", "99999999999999999999"):
        headers = {"Content-Length": length}
        try:
            response = await api.call("POST", "/v1/reservations", by=member, headers=headers)
        except Exception as error:  # the connection may be cut as well
            assert "Error" in type(error).__name__
            continue
        assert response.status_code in (400, 413, 422)

"""Signing up, in, on and out; keys; what deletion ends."""

import asyncio
import base64
from uuid import UUID

import jwt

from korder.kernel.ids import new_id
from tests.contract.client import PASSWORD, Api, Person, eventually

SIGNUP, LOGIN, REFRESH, LOGOUT = (f"/v1/auth/{x}" for x in ("signup", "login", "refresh", "logout"))
#: "this access token too, everywhere, within 5 s"
SIGNED_OUT_S = 5.0


def somebody(**given):
    body = {"email": f"{new_id()}@example.com", "password": PASSWORD, "name": "민아"}
    return {**body, **given}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ended(api: Api, token: str) -> None:
    """The access token stops working, on a framework route and on the raw one."""

    async def statuses():
        me = await api.call("GET", "/v1/users/me", headers=bearer(token))
        reserve = await api.call("POST", "/v1/reservations", {}, headers=bearer(token))
        return {me.status_code, reserve.status_code}

    await eventually(statuses, lambda found: found == {401}, SIGNED_OUT_S)


async def test_a_new_member(api: Api):
    body = somebody()
    response = await api.call("POST", SIGNUP, body)
    assert response.status_code == 201
    member = response.json()
    assert set(member) >= {"id", "email", "name", "roles", "points", "created_at"}
    assert (member["email"], member["name"]) == (body["email"], "민아")
    assert (member["roles"], member["points"]) == (["member"], 0)
    assert UUID(member["id"]).version == 7
    assert "password" not in response.text
    await api.refused(409, "email_taken", "POST", SIGNUP, body)
    await api.refused(409, "email_taken", "POST", SIGNUP, {**body, "email": body["email"].upper()})


async def test_the_bounds_of_a_password(api: Api):
    for length in (0, 1, 9, 129, 1000):
        bad = somebody(password="x" * length)
        problem = await api.refused(422, "invalid_request", "POST", SIGNUP, bad)
        assert problem["errors"][0]["field"] == "password"
    for length in (10, 128):
        await api.ok("POST", SIGNUP, somebody(password="비" * length))


async def test_what_is_no_email(api: Api):
    for email in (
        "",
        "a",
        "a@",
        "@b",
        "a b@c.d",
        "a@b@c",
        "x" * 251 + "@b.c",
        "a\0@b.c",
    ):
        bad = somebody(email=email)
        problem = await api.refused(422, "invalid_request", "POST", SIGNUP, bad)
        assert [error["field"] for error in problem["errors"]] == ["email"], email


async def test_signing_up_again_with_the_same_key(api: Api):
    body, key = somebody(), {"Idempotency-Key": str(new_id())}
    first = await api.call("POST", SIGNUP, body, headers=key)
    again = await api.call("POST", SIGNUP, body, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    for other in ({"name": "준호"}, {"password": "another password"}, {"email": "x@example.com"}):
        await api.refused(
            422, "idempotency_conflict", "POST", SIGNUP, {**body, **other}, headers=key
        )


async def test_tokens_of_a_sign_in(api: Api):
    account = await api.signed_up()
    body = {"email": account["email"].upper(), "password": account["password"]}
    response = await api.call("POST", LOGIN, body)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    tokens = api.noted(response.json())
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 900
    me = await api.ok("GET", "/v1/users/me", headers=bearer(tokens["access_token"]))
    assert me == account["member"]


async def test_access_tokens_are_asymmetric_and_say_for_whom(api: Api):
    tokens = await api.login(await api.signed_up())
    header = jwt.get_unverified_header(tokens["access_token"])
    assert header["alg"] == "RS256"
    jwks = await api.ok("GET", "/.well-known/jwks.json")
    (key,) = [key for key in jwks["keys"] if key["kid"] == header["kid"]]
    assert set(key) == {"kid", "kty", "n", "e", "alg", "use"}, "and nothing of the private half"
    assert (key["kty"], key["alg"], key["use"]) == ("RSA", "RS256", "sig")
    assert len(base64.urlsafe_b64decode(key["n"] + "==")) == 256
    claims = jwt.decode(
        tokens["access_token"],
        jwt.PyJWK.from_dict(key).key,
        algorithms=["RS256"],
        audience="korder-api",
        issuer="korder",
    )
    assert claims["typ"] == "access"
    assert claims["exp"] - claims["iat"] == tokens["expires_in"]


async def test_a_wrong_password_and_an_unknown_email_look_the_same(api: Api):
    account = await api.signed_up()
    wrong = {"email": account["email"], "password": "not the password"}
    unknown = {"email": f"{new_id()}@example.com", "password": "not the password"}
    answers = [
        await api.refused(401, "unauthenticated", "POST", LOGIN, b) for b in (wrong, unknown)
    ]
    assert answers[0] == answers[1]


async def test_a_wrong_password_and_an_unknown_email_take_the_same_time(api: Api):
    """The least of a few: whatever else the machine does only adds to it."""
    account = await api.signed_up()
    least = []
    for email in (account["email"], f"{new_id()}@example.com"):
        body = {"email": email, "password": "not the password"}
        times = [(await api.call("POST", LOGIN, body)).elapsed.total_seconds() for _ in range(5)]
        least.append(min(times))
    assert 0.5 < least[0] / least[1] < 2, least


async def test_a_refresh_token_works_once(api: Api):
    first = await api.login(await api.signed_up())
    second = api.noted(await api.ok("POST", REFRESH, {"refresh_token": first["refresh_token"]}))
    assert set(second) == set(first)
    assert second["refresh_token"] != first["refresh_token"]
    for tokens in (first, second):
        await api.ok("GET", "/v1/users/me", headers=bearer(tokens["access_token"]))
    third = api.noted(await api.ok("POST", REFRESH, {"refresh_token": second["refresh_token"]}))
    await api.ok("GET", "/v1/users/me", headers=bearer(third["access_token"]))


async def test_using_a_spent_refresh_token_ends_the_family(api: Api):
    account = await api.signed_up()
    first = await api.login(account)
    elsewhere = await api.login(account)
    second = api.noted(await api.ok("POST", REFRESH, {"refresh_token": first["refresh_token"]}))
    for _ in range(2):
        await api.refused(
            401, "unauthenticated", "POST", REFRESH, {"refresh_token": first["refresh_token"]}
        )
    await api.refused(
        401, "unauthenticated", "POST", REFRESH, {"refresh_token": second["refresh_token"]}
    )
    await ended(api, first["access_token"])
    await ended(api, second["access_token"])
    await api.ok("GET", "/v1/users/me", headers=bearer(elsewhere["access_token"]))


async def test_one_of_many_equal_refreshes_wins(api: Api):
    tokens = await api.login(await api.signed_up())
    answers = await asyncio.gather(
        *(api.call("POST", REFRESH, {"refresh_token": tokens["refresh_token"]}) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7


async def test_signing_out_ends_the_family_and_the_access_token(api: Api):
    account = await api.signed_up()
    tokens, elsewhere = await api.login(account), await api.login(account)
    body = {"refresh_token": tokens["refresh_token"]}
    response = await api.call("POST", LOGOUT, body, headers=bearer(tokens["access_token"]))
    assert response.status_code == 204
    await ended(api, tokens["access_token"])
    await api.refused(401, "unauthenticated", "POST", REFRESH, body)
    assert (await api.call("POST", LOGOUT, body)).status_code == 204
    await api.ok("GET", "/v1/users/me", headers=bearer(elsewhere["access_token"]))


async def test_signing_out_without_the_access_token_ends_it_all_the_same(api: Api):
    tokens = await api.login(await api.signed_up())
    await api.ok("POST", LOGOUT, {"refresh_token": tokens["refresh_token"]})
    await ended(api, tokens["access_token"])


async def test_a_deleted_member_is_gone(api: Api, admin: Person):
    account = await api.signed_up()
    tokens = await api.login(account)
    response = await api.call("DELETE", "/v1/users/me", headers=bearer(tokens["access_token"]))
    assert response.status_code == 204
    await ended(api, tokens["access_token"])
    login = {"email": account["email"], "password": account["password"]}
    await api.refused(401, "unauthenticated", "POST", LOGIN, login)
    await api.refused(
        401, "unauthenticated", "POST", REFRESH, {"refresh_token": tokens["refresh_token"]}
    )
    found = await api.ok("GET", "/v1/users", by=admin, params={"email": account["email"]})
    assert found["items"] == []
    row = await api.db.fetchrow(
        "SELECT email, name, password_hash FROM users.members WHERE id = $1",
        UUID(account["member"]["id"]),
    )
    assert tuple(row) == (None, None, None)
    again = await api.signed_up(email=account["email"])
    assert again["member"]["id"] != account["member"]["id"]

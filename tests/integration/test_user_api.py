"""The member routes on a real PostgreSQL: what the contract's section Members says."""

import asyncio
import json
from uuid import UUID

import pytest
import pytest_asyncio

from korder.kernel.ids import new_id
from tests.accounts import Accounts, bearer, refused

pytestmark = pytest.mark.usefixtures("clean")


@pytest_asyncio.fixture
async def accounts(pool, clean):
    made = await Accounts(pool).start()
    yield made
    await made.close()


# -- signing up


async def test_signing_up_makes_a_member(accounts) -> None:
    response = await accounts.signup("  Mina@Example.com ")
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    member = response.json()
    assert UUID(member["id"]).version == 7
    assert member["created_at"].endswith("Z")
    assert {k: v for k, v in member.items() if k not in ("id", "created_at")} == {
        "email": "Mina@Example.com",
        "name": "민아",
        "roles": ["member"],
        "points": 0,
    }
    tokens = (await accounts.login("mina@EXAMPLE.com")).json()
    assert (await accounts.me(tokens["access_token"])).json() == member


async def test_an_address_is_taken_whatever_its_case(accounts) -> None:
    await accounts.signup("mina@example.com")
    refused(await accounts.signup("MINA@example.com"), 409, "email_taken")
    keyed = await accounts.signup("MINA@example.com", headers={"Idempotency-Key": "k"})
    refused(keyed, 409, "email_taken")


async def test_of_many_at_once_one_gets_the_address(pool, clean) -> None:
    accounts = await Accounts(pool, hash_concurrency=1, hash_queue_max=50).start()
    try:
        answers = await asyncio.gather(*(accounts.signup() for _ in range(10)))
        assert sorted(a.status_code for a in answers) == [201] + [409] * 9
    finally:
        await accounts.close()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"email": "no address"}, "email"),
        ({"email": "a@b@c"}, "email"),
        ({"email": "a\x00@b.c"}, "email"),
        ({"email": "x" * 250 + "@b.com"}, "email"),
        ({"email": 7}, "email"),
        ({"password": "too short"}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"password": "quiet\x00morning"}, "password"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": None}, "name"),
        ({"role": "admin"}, "role"),
        ({"roles": ["admin"]}, "roles"),
    ],
)
async def test_a_bad_sign_up_is_refused_and_says_where(accounts, changes, field) -> None:
    response = await accounts.signup(**changes)
    refused(response, 422, "invalid_request")
    assert response.json()["errors"][0]["field"] == field
    assert await accounts.pool.fetchval("SELECT count(*) FROM users.members") == 0


async def test_half_a_surrogate_pair_is_refused(accounts) -> None:
    body = b'{"email": "a@b.c", "password": "a quiet morning", "name": "\\ud800"}'
    response = await accounts.http.post(
        "/v1/auth/signup", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (400, 422)
    assert response.json()["code"] == "invalid_request"


async def test_hostile_names_are_only_names(accounts) -> None:
    name = "'); DROP TABLE users.members; --"
    mina = await accounts.member("'or(1=1)--@example.com")
    response = await accounts.http.patch(
        "/v1/users/me", json={"name": name}, headers=mina["headers"]
    )
    assert response.json()["name"] == name


# -- the same sign-up twice


async def test_a_repeated_sign_up_gets_the_same_answer(accounts) -> None:
    key = {"Idempotency-Key": "once"}
    first = await accounts.signup(headers=key)
    again = await accounts.signup(headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"


async def test_many_at_once_with_one_key_are_one_member(pool, clean) -> None:
    accounts = await Accounts(pool, hash_concurrency=2, hash_queue_max=100).start()
    try:
        key = {"Idempotency-Key": "once"}
        answers = await asyncio.gather(*(accounts.signup(headers=key) for _ in range(12)))
        assert {a.status_code for a in answers} == {201}
        assert len({a.content for a in answers}) == 1
        assert sum("idempotent-replayed" not in a.headers for a in answers) == 1
    finally:
        await accounts.close()


@pytest.mark.parametrize(
    "changes", [{"password": "another morning"}, {"name": "Other"}, {"email": "other@example.com"}]
)
async def test_the_same_key_for_another_sign_up_is_a_conflict(accounts, changes) -> None:
    key = {"Idempotency-Key": "once"}
    await accounts.signup(headers=key)
    refused(await accounts.signup(headers=key, **changes), 422, "idempotency_conflict")


async def test_nothing_that_is_kept_helps_to_guess_the_password(accounts) -> None:
    await accounts.signup(headers={"Idempotency-Key": "one"})
    await accounts.signup(
        "two@example.com", password="another morning", headers={"Idempotency-Key": "two"}
    )
    await accounts.pool.execute("DELETE FROM users.members")
    await accounts.signup(password="third morning", headers={"Idempotency-Key": "three"})
    prints = await accounts.pool.fetch(
        "SELECT fingerprint FROM users.idempotency ORDER BY created_at"
    )
    assert prints[0] == prints[2]  # same address and name, another password
    assert prints[0] != prints[1]


# -- my account


async def test_without_a_token_there_is_no_me(accounts) -> None:
    refused(await accounts.http.get("/v1/users/me"), 401, "unauthenticated")
    refused(await accounts.me("nonsense"), 401, "unauthenticated")


async def test_i_change_my_name_and_nothing_else(accounts) -> None:
    mina = await accounts.member()

    async def change(body):
        return await accounts.http.patch("/v1/users/me", json=body, headers=mina["headers"])

    assert (await change({"name": "Mina Kim"})).json()["name"] == "Mina Kim"
    assert (await change({})).json()["name"] == "Mina Kim"
    for body in ({"name": ""}, {"name": "a\0"}, {"email": "x@y.z"}, {"roles": ["admin"]}, []):
        refused(await change(body), 422, "invalid_request")
    assert (await accounts.me(mina["access_token"])).json() == {
        **mina["member"],
        "name": "Mina Kim",
    }


async def test_a_deleted_member_leaves_nothing_behind(accounts) -> None:
    key = {"Idempotency-Key": "once"}
    created = (await accounts.signup(headers=key)).json()
    tokens = (await accounts.login()).json()
    answer = await accounts.http.delete("/v1/users/me", headers=bearer(tokens["access_token"]))
    assert answer.status_code == 204
    refused(await accounts.me(tokens["access_token"]), 401, "unauthenticated")
    refused(await accounts.refresh(tokens["refresh_token"]), 401, "unauthenticated")
    refused(await accounts.login(), 401, "unauthenticated")
    rows = await accounts.pool.fetch(
        "SELECT m::text AS kept FROM users.members m"
        " UNION ALL SELECT convert_from(body, 'UTF8') FROM users.idempotency"
        " UNION ALL SELECT s::text FROM users.sessions s"
    )
    assert rows
    assert not [row for row in rows if "mina" in row["kept"] or "민아" in row["kept"]]
    again = await accounts.signup(headers=key)
    assert again.status_code == 201
    assert again.json()["id"] != created["id"]


# -- admins


async def test_management_needs_an_admin(accounts) -> None:
    mina = await accounts.member("mina@example.com", "member", "organizer")
    target = mina["member"]["id"]
    calls = [
        ("GET", "/v1/users", None),
        ("PUT", f"/v1/users/{target}/roles", {"roles": ["admin"]}),
        ("POST", f"/v1/users/{target}/points", {"delta": 5, "reason": "gift"}),
    ]
    for method, path, body in calls:
        plain = await accounts.http.request(method, path, json=body)
        refused(plain, 401, "unauthenticated")
        signed = await accounts.http.request(method, path, json=body, headers=mina["headers"])
        refused(signed, 403, "forbidden")
    assert (await accounts.me(mina["access_token"])).json()["points"] == 0


async def test_members_are_listed_and_found(accounts) -> None:
    root = await accounts.member("root@example.com", "member", "admin")
    for n in range(5):
        assert (await accounts.signup(f"m{n}@example.com")).status_code == 201

    async def listed(**query):
        response = await accounts.http.get("/v1/users", params=query, headers=root["headers"])
        assert response.status_code == 200, response.text
        return response.json()

    seen, cursor = [], None
    while True:
        page = await listed(limit=2, **({"cursor": cursor} if cursor else {}))
        assert len(page["items"]) == 2
        seen += [member["email"] for member in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"m{n}@example.com" for n in (4, 3, 2, 1, 0)] + ["root@example.com"]
    found = await listed(email="M3@EXAMPLE.com")
    assert [member["email"] for member in found["items"]] == ["m3@example.com"]
    assert (await listed(email="nobody@example.com"))["items"] == []
    for query in (
        {"limit": 0},
        {"limit": 101},
        {"cursor": "!"},
        {"cursor": "AAAA"},
        {"email": "\0"},
    ):
        bad = await accounts.http.get("/v1/users", params=query, headers=root["headers"])
        refused(bad, 422, "invalid_request")


async def test_roles_work_at_once_on_tokens_already_out(accounts) -> None:
    root = await accounts.member("root@example.com", "member", "admin")
    mina = await accounts.member()
    path = f"/v1/users/{mina['member']['id']}/roles"

    async def put(roles):
        return await accounts.http.put(path, json={"roles": roles}, headers=root["headers"])

    refused(await accounts.http.get("/v1/users", headers=mina["headers"]), 403, "forbidden")
    given = await put(["admin", "organizer", "member", "admin"])
    assert given.status_code == 200
    assert given.json()["roles"] == ["member", "organizer", "admin"]
    assert (await accounts.http.get("/v1/users", headers=mina["headers"])).status_code == 200
    assert (await put(["member"])).status_code == 200
    refused(await accounts.http.get("/v1/users", headers=mina["headers"]), 403, "forbidden")
    for roles in (["owner"], [], "admin", ["member", 7]):
        refused(await put(roles), 422, "invalid_request")
    nobody = await accounts.http.put(
        f"/v1/users/{new_id()}/roles", json={"roles": ["member"]}, headers=root["headers"]
    )
    refused(nobody, 404, "not_found")


async def test_the_last_admin_stays_one(accounts) -> None:
    root = await accounts.member("root@example.com", "member", "admin")
    mina = await accounts.member("mina@example.com", "member", "admin")

    async def demote(whom, by):
        return await accounts.http.put(
            f"/v1/users/{whom['member']['id']}/roles",
            json={"roles": ["member"]},
            headers=by["headers"],
        )

    # Each takes it from the other at once: one of the two must stay.
    answers = await asyncio.gather(demote(root, mina), demote(mina, root))
    assert 200 in {a.status_code for a in answers}
    left = await accounts.pool.fetchval(
        "SELECT count(*) FROM users.members WHERE 'admin' = ANY (roles)"
    )
    assert left == 1
    last = (
        root if (await accounts.service.roles_of(UUID(root["member"]["id"]))) & {"admin"} else mina
    )
    refused(await demote(last, last), 409, "invalid_state")


# -- points


async def test_points_are_a_ledger(accounts) -> None:
    root = await accounts.member("root@example.com", "admin")
    mina = await accounts.member()

    async def grant(delta, reason="gift", key=None):
        return await accounts.http.post(
            f"/v1/users/{mina['member']['id']}/points",
            json={"delta": delta, "reason": reason},
            headers={**root["headers"], **({"Idempotency-Key": key} if key else {})},
        )

    for delta in (500, -200, 50):
        entry = (await grant(delta)).json()
        assert entry["delta"] == delta
        assert set(entry) == {"id", "delta", "reason", "created_at"}
    refused(await grant(-351), 409, "insufficient_points")
    for delta in (0, 1.5, "5", 10**13, None):
        refused(await grant(delta), 422, "invalid_request")
    refused(await grant(5, reason="a\0"), 422, "invalid_request")
    first, again = await grant(7, key="once"), await grant(7, key="once")
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    refused(await grant(8, key="once"), 422, "idempotency_conflict")

    pages, cursor = [], None
    while True:
        query = {"limit": 3, **({"cursor": cursor} if cursor else {})}
        page = await accounts.http.get("/v1/users/me/points", params=query, headers=mina["headers"])
        assert page.json()["balance"] == 357
        pages += page.json()["items"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
    assert [entry["delta"] for entry in pages] == [7, 50, -200, 500]
    assert (await accounts.me(mina["access_token"])).json()["points"] == 357
    gone = await accounts.http.post(
        f"/v1/users/{new_id()}/points",
        json={"delta": 1, "reason": "x"},
        headers=root["headers"],
    )
    refused(gone, 404, "not_found")


async def test_racing_debits_never_go_below_zero(accounts) -> None:
    root = await accounts.member("root@example.com", "admin")
    mina = await accounts.member()
    path = f"/v1/users/{mina['member']['id']}/points"

    async def move(delta):
        body = {"delta": delta, "reason": "race"}
        return (await accounts.http.post(path, json=body, headers=root["headers"])).status_code

    assert await move(100) == 201
    answers = await asyncio.gather(*(move(-30) for _ in range(10)))
    assert sorted(answers) == [201] * 3 + [409] * 7
    assert (await accounts.me(mina["access_token"])).json()["points"] == 10


# -- what clients read


async def test_openapi_says_the_same(accounts) -> None:
    paths = accounts.framework.openapi_schema.to_schema()["paths"]
    assert {
        (method.upper(), path)
        for path, operations in paths.items()
        for method in operations
        if method in ("get", "post", "put", "patch", "delete")
    } == {
        ("POST", "/v1/auth/signup"),
        ("POST", "/v1/auth/login"),
        ("POST", "/v1/auth/refresh"),
        ("POST", "/v1/auth/logout"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/v1/users/me"),
        ("PATCH", "/v1/users/me"),
        ("DELETE", "/v1/users/me"),
        ("GET", "/v1/users/me/points"),
        ("GET", "/v1/users"),
        ("PUT", "/v1/users/{member_id}/roles"),
        ("POST", "/v1/users/{member_id}/points"),
    }
    assert "security" not in paths["/v1/auth/login"]["post"]
    assert paths["/v1/users/me"]["get"]["security"] == [{"bearer": []}]
    json.dumps(paths)

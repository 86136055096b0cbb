"""One's own account, and what admins do to others': roles and points."""

from uuid import UUID

from korder.kernel.ids import new_id
from tests.contract.client import Api, Person, eventually

ME, POINTS = "/v1/users/me", "/v1/users/me/points"


async def test_me(api: Api, member: Person):
    me = await api.ok("GET", ME, by=member)
    assert set(me) >= {"id", "email", "name", "roles", "points", "created_at"}
    assert me["id"] == member.id
    renamed = await api.ok("PATCH", ME, {"name": "박준호"}, by=member)
    assert renamed == {**me, "name": "박준호"}
    assert await api.ok("PATCH", ME, {}, by=member) == renamed
    assert await api.ok("GET", ME, by=member) == renamed


async def test_only_the_name_can_be_patched(api: Api, member: Person):
    for field, value in (("roles", ["admin"]), ("points", 10**6), ("email", "a@b.c"), ("id", "x")):
        problem = await api.refused(422, "invalid_request", "PATCH", ME, {field: value}, by=member)
        assert [error["field"] for error in problem["errors"]] == [field]


async def test_management_is_for_admins(api: Api, organizer: Person, member: Person):
    other = await api.person()
    calls = [
        ("GET", "/v1/users", None),
        ("GET", "/v1/users?email=a@b.c", None),
        ("PUT", f"/v1/users/{other.id}/roles", {"roles": ["member", "admin"]}),
        ("PUT", f"/v1/users/{member.id}/roles", {"roles": ["member", "admin"]}),
        ("POST", f"/v1/users/{member.id}/points", {"delta": 5, "reason": "gift"}),
    ]
    for method, path, body in calls:
        await api.refused(401, "unauthenticated", method, path, body)
        for by in (member, organizer):
            await api.refused(403, "forbidden", method, path, body, by=by)


async def test_members_are_found_by_email(api: Api, admin: Person):
    account = await api.signed_up()
    for email in (account["email"], account["email"].upper()):
        found = await api.ok("GET", "/v1/users", by=admin, params={"email": email})
        assert found == {"items": [account["member"]], "next_cursor": None}
    none = await api.ok("GET", "/v1/users", by=admin, params={"email": "%@example.com"})
    assert none["items"] == []


async def test_all_members_are_listed_once(api: Api, admin: Person):
    found = [item["id"] for item in await api.walk("/v1/users", by=admin, limit=100)]
    assert len(found) == len(set(found)) >= 100
    assert found == sorted(found, reverse=True), "newest first"
    assert admin.id in found


async def test_roles_work_at_once_on_tokens_that_are_out(api: Api, admin: Person, member: Person):
    path = f"/v1/users/{member.id}/roles"
    await api.refused(403, "forbidden", "GET", "/v1/users", by=member)
    changed = await api.ok("PUT", path, {"roles": ["member", "organizer"]}, by=admin)
    assert (changed["id"], changed["roles"]) == (member.id, ["member", "organizer"])
    await api.draft(member)
    await api.ok("PUT", path, {"roles": ["member"]}, by=admin)
    refused = {"title": "T", "venue": "V", "starts_at": "2099-01-01T00:00:00Z"}
    body = {**refused, "ticket_types": [{"name": "R", "price": 0, "capacity": 1}]}

    async def status():
        return (await api.call("POST", "/v1/events", body, by=member)).status_code

    await eventually(status, lambda found: found == 403, 2)


async def test_roles_that_cannot_be(api: Api, admin: Person, member: Person):
    path = f"/v1/users/{member.id}/roles"
    for bad in ({}, {"roles": []}, {"roles": ["king"]}, {"roles": "admin"}, {"roles": [1]}):
        await api.refused(422, "invalid_request", "PUT", path, bad, by=admin)
    body = {"roles": ["member"]}
    await api.refused(404, "not_found", "PUT", f"/v1/users/{new_id()}/roles", body, by=admin)


async def test_the_last_admin_stays_one(api: Api, admin: Person, member: Person):
    second = await api.person("admin")
    path = f"/v1/users/{second.id}/roles"
    assert (await api.ok("PUT", path, {"roles": ["member"]}, by=admin))["roles"] == ["member"]
    others = "UPDATE users.members SET roles = '{member}' WHERE 'admin' = ANY (roles) AND id <> $1"
    await api.db.execute(others, UUID(admin.id))
    path = f"/v1/users/{admin.id}/roles"
    await api.refused(409, "invalid_state", "PUT", path, {"roles": ["member"]}, by=admin)
    assert "admin" in (await api.ok("GET", ME, by=admin))["roles"]


async def test_points_are_given_and_taken(api: Api, admin: Person, member: Person):
    path = f"/v1/users/{member.id}/points"
    assert await api.ok("GET", POINTS, by=member) == {
        "balance": 0,
        "items": [],
        "next_cursor": None,
    }
    response = await api.call("POST", path, {"delta": 500, "reason": "환영"}, by=admin)
    assert response.status_code == 201
    entry = response.json()
    assert set(entry) >= {"id", "delta", "reason", "created_at"}
    assert (entry["delta"], entry["reason"]) == (500, "환영")
    await api.ok("POST", path, {"delta": -200, "reason": "slip"}, by=admin)
    await api.refused(
        409, "insufficient_points", "POST", path, {"delta": -301, "reason": "too much"}, by=admin
    )
    page = await api.ok("GET", POINTS, by=member)
    assert page["balance"] == 300
    assert [item["delta"] for item in page["items"]] == [-200, 500], "newest first"
    assert (await api.ok("GET", ME, by=member))["points"] == 300


async def test_points_that_cannot_be(api: Api, admin: Person, member: Person):
    path = f"/v1/users/{member.id}/points"
    for delta in (0, 1.5, "5", True, None, 10**13, 2**63, -(2**64)):
        bad = {"delta": delta, "reason": "x"}
        await api.refused(422, "invalid_request", "POST", path, bad, by=admin)
    for reason in ("", None, 5, "x" * 10_000, "a\0b"):
        bad = {"delta": 1, "reason": reason}
        await api.refused(422, "invalid_request", "POST", path, bad, by=admin)
    good = {"delta": 1, "reason": "x"}
    await api.refused(404, "not_found", "POST", f"/v1/users/{new_id()}/points", good, by=admin)
    await api.refused(404, "not_found", "POST", "/v1/users/nobody/points", good, by=admin)


async def test_points_are_given_once_for_a_key(api: Api, admin: Person, member: Person):
    path, key = f"/v1/users/{member.id}/points", {"Idempotency-Key": f"gift-{new_id()}"}
    body = {"delta": 7, "reason": "gift"}
    first, again = [await api.call("POST", path, body, by=admin, headers=key) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    await api.refused(
        422, "idempotency_conflict", "POST", path, {**body, "delta": 8}, by=admin, headers=key
    )
    other = await api.person()
    await api.refused(
        422,
        "idempotency_conflict",
        "POST",
        f"/v1/users/{other.id}/points",
        body,
        by=admin,
        headers=key,
    )
    assert (await api.ok("GET", POINTS, by=member))["balance"] == 7


async def test_the_ledger_is_walked_once(api: Api, admin: Person, member: Person):
    for delta in range(1, 6):
        await api.ok(
            "POST", f"/v1/users/{member.id}/points", {"delta": delta, "reason": "x"}, by=admin
        )
    found = await api.walk(POINTS, by=member, limit=2)
    assert [item["delta"] for item in found] == [5, 4, 3, 2, 1]

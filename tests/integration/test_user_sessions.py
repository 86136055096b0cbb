"""Signing in and out on a real PostgreSQL: rotation, reuse, revocation, keys."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import jwt
import pytest
import pytest_asyncio
from argon2 import PasswordHasher

from korder.bootstrap import SessionWatch
from korder.domains.user import invariants, keys, sessions
from korder.domains.user.admins import make_admin
from korder.domains.user.keys import RETIRED_SLACK_S
from korder.domains.user.mint import mint
from korder.domains.user.passwords import Passwords
from korder.domains.user.service import UserService
from korder.domains.user.tokens import Issuer
from korder.kernel.errors import Refusal
from korder.platform.auth import Authenticator
from korder.platform.postgres import transaction
from tests.accounts import PASSWORD, Accounts, bearer, refused
from tests.core import eventually
from tests.fakes import FakeInvalidation

SLACK_S = 900 + RETIRED_SLACK_S


@pytest_asyncio.fixture
async def accounts(pool, clean):
    made = await Accounts(pool).start()
    yield made
    await made.close()


# -- signing in


async def test_signing_in_gives_tokens(accounts) -> None:
    await accounts.signup()
    response = await accounts.login()
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    tokens = response.json()
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 900)
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 900


async def test_a_wrong_password_and_an_unknown_address_answer_alike(accounts) -> None:
    await accounts.signup()
    wrong = await accounts.login(password="another morning")
    unknown = await accounts.login("nobody@example.com")
    for response in (wrong, unknown, await accounts.login("not an address", "x")):
        refused(response, 401, "unauthenticated")
        assert response.content == wrong.content


async def test_a_flood_of_sign_ins_is_refused_with_retry_after(pool, clean) -> None:
    accounts = await Accounts(pool, hash_concurrency=1, hash_queue_max=2).start()
    try:
        await accounts.signup()
        answers = await asyncio.gather(*(accounts.login() for _ in range(20)))
        kinds = {a.status_code for a in answers}
        assert kinds == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                refused(answer, 503, "overloaded")
                assert int(answer.headers["retry-after"]) >= 1
    finally:
        await accounts.close()


async def test_an_old_hash_is_made_anew_at_sign_in(accounts) -> None:
    await accounts.signup()
    old = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    await accounts.pool.execute("UPDATE users.members SET password_hash = $1", old)
    assert (await accounts.login()).status_code == 200
    new = await accounts.pool.fetchval("SELECT password_hash FROM users.members")
    assert new != old
    assert "m=19456,t=2,p=1" in new
    assert (await accounts.login()).status_code == 200


# -- refreshing


async def test_a_refresh_token_works_once_and_its_second_use_ends_the_family(accounts) -> None:
    mina = await accounts.member()
    other = (await accounts.login()).json()  # another family of the same member
    second = (await accounts.refresh(mina["refresh_token"])).json()
    assert second["refresh_token"] != mina["refresh_token"]
    assert (await accounts.me(second["access_token"])).status_code == 200
    third = (await accounts.refresh(second["refresh_token"])).json()

    refused(await accounts.refresh(mina["refresh_token"]), 401, "unauthenticated")
    for token in (third["refresh_token"], second["refresh_token"]):
        refused(await accounts.refresh(token), 401, "unauthenticated")
    for tokens in (mina, second, third):
        refused(await accounts.me(tokens["access_token"]), 401, "unauthenticated")
    assert (await accounts.me(other["access_token"])).status_code == 200
    assert (await accounts.refresh(other["refresh_token"])).status_code == 200


async def test_of_two_refreshes_at_once_exactly_one_wins(accounts) -> None:
    for _ in range(5):
        await accounts.pool.execute("DELETE FROM users.sessions")
        await accounts.pool.execute("DELETE FROM users.members")
        mina = await accounts.member()
        answers = await asyncio.gather(*(accounts.refresh(mina["refresh_token"]) for _ in range(4)))
        assert sorted(a.status_code for a in answers) == [200, 401, 401, 401]
        winner = next(a.json() for a in answers if a.status_code == 200)
        refused(await accounts.refresh(winner["refresh_token"]), 401, "unauthenticated")
        reasons = await accounts.pool.fetch("SELECT revoked_reason FROM users.sessions")
        assert [row["revoked_reason"] for row in reasons] == ["reuse"]


@pytest.mark.parametrize("token", ["", "nonsense", "x" * 1024, "a\0b", "한글"])
async def test_an_unknown_refresh_token_is_refused(accounts, token) -> None:
    refused(await accounts.refresh(token), 401, "unauthenticated")


async def test_an_access_token_is_no_refresh_token_and_the_reverse(accounts) -> None:
    mina = await accounts.member()
    refused(await accounts.refresh(mina["access_token"][:1024]), 401, "unauthenticated")
    refused(await accounts.me(mina["refresh_token"]), 401, "unauthenticated")


async def test_an_expired_refresh_token_is_refused(accounts) -> None:
    mina = await accounts.member()
    await accounts.pool.execute("UPDATE users.refresh_tokens SET expires_at = now()")
    refused(await accounts.refresh(mina["refresh_token"]), 401, "unauthenticated")


async def test_secrets_are_not_kept(accounts) -> None:
    mina = await accounts.member()
    rows = await accounts.pool.fetch("SELECT digest FROM users.refresh_tokens")
    assert all(len(row["digest"]) == 32 for row in rows)
    assert mina["refresh_token"].encode() not in {row["digest"] for row in rows}


# -- signing out


async def test_signing_out_ends_the_family(accounts) -> None:
    mina = await accounts.member()
    assert (await accounts.logout(mina["refresh_token"])).status_code == 204
    refused(await accounts.me(mina["access_token"]), 401, "unauthenticated")
    refused(await accounts.refresh(mina["refresh_token"]), 401, "unauthenticated")
    told = [key for topic, key in accounts.invalidation.told if topic == "session"]
    assert len(told) == 1
    assert [str(r.session_id) for r in await accounts.service.revocations(None)] == told


async def test_signing_out_again_or_with_nonsense_is_harmless(accounts) -> None:
    mina = await accounts.member()
    for token in (mina["refresh_token"], mina["refresh_token"], "nonsense", ""):
        assert (await accounts.logout(token, mina["access_token"])).status_code == 204
    missing = await accounts.http.post("/v1/auth/logout", json={})
    refused(missing, 422, "invalid_request")


async def test_signing_out_ends_the_access_token_that_came_along(accounts) -> None:
    mina = await accounts.member()
    phone = (await accounts.login()).json()
    answer = await accounts.logout(mina["refresh_token"], phone["access_token"])
    assert answer.status_code == 204
    for tokens in (mina, phone):
        refused(await accounts.me(tokens["access_token"]), 401, "unauthenticated")
        refused(await accounts.refresh(tokens["refresh_token"]), 401, "unauthenticated")


async def test_revocations_are_told_until_the_last_access_token_has_ended(accounts) -> None:
    mina = await accounts.member()
    await accounts.logout(mina["refresh_token"])
    (told,) = await accounts.service.revocations(None)
    assert told.access_expires_at > told.revoked_at
    assert await accounts.service.revocations(told.revoked_at) == [told]
    assert await accounts.service.revocations(told.revoked_at + timedelta(minutes=1)) == []
    await accounts.pool.execute(
        "UPDATE users.sessions SET access_expires_at = now() - interval '2 minutes'"
    )
    assert await accounts.service.revocations(None) == []


# -- keys


async def test_processes_that_start_together_make_one_key(pool, clean) -> None:
    services = [UserService(pool, FakeInvalidation(), Accounts(pool).settings) for _ in range(5)]
    try:
        await asyncio.gather(*(service.start() for service in services))
        assert await pool.fetchval("SELECT count(*) FROM users.signing_keys") == 1
        assert len({tuple(await service.public_keys()) for service in services}) == 1
    finally:
        await asyncio.gather(*(service.stop() for service in services))


async def test_requests_go_on_while_a_key_is_made(pool, clean, monkeypatch) -> None:
    makers = []
    make = keys.new_key_pair
    monkeypatch.setattr(
        keys, "new_key_pair", lambda: makers.append(threading.current_thread()) or make()
    )
    async with transaction(pool) as conn:
        await keys.ensure(conn, SLACK_S)
    assert len(makers) == 1
    assert makers[0] is not threading.current_thread()


async def test_the_jwks_shows_public_keys_only(accounts) -> None:
    mina = await accounts.member()
    response = await accounts.http.get("/.well-known/jwks.json")
    assert response.status_code == 200
    assert "max-age=5" in response.headers["cache-control"]
    (key,) = response.json()["keys"]
    assert set(key) == {"kid", "kty", "n", "e", "alg", "use"}
    public = jwt.PyJWK(key)
    jwt.decode(mina["access_token"], public, algorithms=["RS256"], audience="korder-api")


async def test_rotating_signs_nobody_out(accounts, monkeypatch) -> None:
    monkeypatch.setattr(keys, "RELOAD_S", 0.05)
    monkeypatch.setattr(keys, "PUBLISH_LEAD_S", 1)
    await accounts.service.keys.stop()
    await accounts.service.keys.start()
    mina = await accounts.member()
    old = jwt.get_unverified_header(mina["access_token"])["kid"]
    async with transaction(accounts.pool) as conn:
        published = await keys.rotate(conn, SLACK_S)
    assert [key.state for key in published] == ["next", "signing"]

    early = (await accounts.refresh(mina["refresh_token"])).json()
    assert jwt.get_unverified_header(early["access_token"])["kid"] == old

    async def new_signs() -> bool:
        return (await accounts.service.keys.signer()).kid == published[0].kid

    await eventually(new_signs)
    late = (await accounts.refresh(early["refresh_token"])).json()
    assert jwt.get_unverified_header(late["access_token"])["kid"] == published[0].kid
    for tokens in (mina, early, late):
        assert (await accounts.me(tokens["access_token"])).status_code == 200
    shown = (await accounts.http.get("/.well-known/jwks.json")).json()["keys"]
    assert [key["kid"] for key in shown] == [published[0].kid, old]

    # A process that has seen neither key learns of both by itself.
    fresh = Authenticator(accounts.service, issuer="korder", audience="korder-api")
    for tokens in (late, mina):
        await fresh.authenticate_fresh(bearer(tokens["access_token"])["Authorization"].encode())


async def test_an_old_key_goes_when_its_last_token_has_ended(accounts) -> None:
    async with transaction(accounts.pool) as conn:
        await keys.rotate(conn, SLACK_S)
        await keys.rotate(conn, SLACK_S)
    assert len(await accounts.service.public_keys()) == 3
    await accounts.pool.execute(
        "UPDATE users.signing_keys SET retired_at = now() - make_interval(secs => $1)"
        " WHERE retired_at IS NOT NULL",
        SLACK_S + 1,
    )
    assert len(await accounts.service.public_keys()) == 1
    assert (await accounts.service.housekeeping())["signing_keys"] == 0  # kept a day to look at
    await accounts.pool.execute(
        "UPDATE users.signing_keys SET retired_at = retired_at - interval '2 days'"
    )
    assert (await accounts.service.housekeeping())["signing_keys"] == 2


# -- minted members


async def test_minted_members_are_members(accounts) -> None:
    seen = []
    async with transaction(accounts.pool) as conn:
        tokens = await mint(
            conn,
            Issuer("korder", "korder-api"),
            count=1500,
            ttl_s=7200,
            slack_s=SLACK_S,
            progress=seen.append,
        )
    assert seen == [1000, 500]
    assert len(set(tokens)) == 1500
    me = (await accounts.me(tokens[7])).json()
    assert me["name"] == "Member 8"
    refused(await accounts.login(me["email"], ""), 401, "unauthenticated")
    # Their key outlives an ordinary one, and their sessions can be ended.
    async with transaction(accounts.pool) as conn:
        await keys.rotate(conn, SLACK_S)
    await accounts.pool.execute(
        "UPDATE users.signing_keys SET retired_at = now() - interval '1 hour'"
        " WHERE retired_at IS NOT NULL"
    )
    assert len(await accounts.service.public_keys()) == 2
    assert (await accounts.logout("", tokens[7])).status_code == 204
    refused(await accounts.me(tokens[7]), 401, "unauthenticated")
    assert (await accounts.me(tokens[8])).status_code == 200


# -- admins from the command line


async def test_the_first_admin_is_made_and_a_member_is_promoted(accounts) -> None:
    passwords = Passwords(1, 0)
    asked = []

    async def ask() -> str:
        asked.append(1)
        return "correct horse"

    async def make(email, *, set_password=False):
        async with transaction(accounts.pool) as conn:
            return await make_admin(conn, email, None, passwords, ask, set_password=set_password)

    try:
        made = await make("root@example.com")
        assert (made.did, made.password_set, len(asked)) == ("created", True, 1)
        assert (await accounts.login("root@example.com", "correct horse")).status_code == 200

        mina = await accounts.member()
        made = await make("MINA@example.com")
        assert (made.did, made.password_set, len(asked)) == ("promoted", False, 1)
        assert (await accounts.login()).status_code == 200
        assert (await accounts.me(mina["access_token"])).json()["roles"] == ["member", "admin"]

        made = await make("mina@example.com", set_password=True)
        assert (made.did, made.password_set, len(made.ended)) == ("unchanged", True, 2)
        refused(await accounts.login(), 401, "unauthenticated")
        refused(await accounts.refresh(mina["refresh_token"]), 401, "unauthenticated")
    finally:
        passwords.close()


# -- upkeep


async def test_housekeeping_deletes_what_nobody_needs(accounts) -> None:
    mina = await accounts.member()
    await accounts.refresh(mina["refresh_token"])
    nothing = {"answers": 0, "refresh_tokens": 0, "sessions": 0, "signing_keys": 0}
    assert await accounts.service.housekeeping() == nothing
    await accounts.pool.execute(
        "UPDATE users.refresh_tokens SET expires_at = now() - interval '1 s' WHERE used_at IS NULL"
    )
    assert await accounts.service.housekeeping() == {**nothing, "refresh_tokens": 1}
    await accounts.pool.execute(
        "UPDATE users.sessions SET expires_at = now() - interval '1 h',"
        " access_expires_at = now() - interval '1 h'"
    )
    assert await accounts.service.housekeeping() == {**nothing, "sessions": 1}
    assert await accounts.pool.fetchval("SELECT count(*) FROM users.refresh_tokens") == 0


async def test_the_ledger_is_append_only_and_the_balance_guarded(accounts) -> None:
    mina = await accounts.member()
    member = UUID(mina["member"]["id"])
    await accounts.service.points.grant(member, member, 10, "gift", None)
    for statement in (
        "UPDATE users.points_ledger SET delta = 5",
        "DELETE FROM users.points_ledger",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await accounts.pool.execute(statement)
    with pytest.raises(asyncpg.CheckViolationError):
        await accounts.pool.execute("UPDATE users.members SET points = -1")


async def test_the_audit_sees_a_balance_that_is_not_the_sum(accounts) -> None:
    mina = await accounts.member()
    member = UUID(mina["member"]["id"])
    await accounts.service.points.grant(member, member, 10, "gift", None)
    await accounts.pool.execute("UPDATE users.members SET points = 11")
    async with accounts.pool.acquire() as conn:
        balance, ledger = await invariants.check(conn)
    assert (balance.invariant, balance.checked, balance.failed) == (7, 1, 1)
    assert balance.examples == (str(member),)
    assert ledger.ok
    await accounts.pool.execute("UPDATE users.members SET points = 10")


async def test_signing_in_while_being_deleted_leaves_no_session(accounts) -> None:
    for _ in range(5):
        mina = await accounts.member()
        gone = accounts.http.delete("/v1/users/me", headers=mina["headers"])
        answers = await asyncio.gather(gone, *(accounts.login() for _ in range(3)))
        assert answers[0].status_code == 204
        alive = await accounts.pool.fetchval(
            "SELECT count(*) FROM users.sessions WHERE revoked_at IS NULL"
        )
        assert alive == 0


async def test_times_are_utc(accounts) -> None:
    mina = await accounts.member()
    created = datetime.fromisoformat(mina["member"]["created_at"])
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=1)


# -- negative controls: what the guards are for


class _Unguarded:
    """The queries without the lock, and with all readers past the reading before one writes."""

    def __init__(self, real, parties: int) -> None:
        self._real = real
        self._all_read = asyncio.Barrier(parties)

    def __getattr__(self, name: str):
        return getattr(self._real, name)

    async def lock_session_of_token(self, conn, *, digest):
        return await conn.fetchval(
            "SELECT session_id FROM users.refresh_tokens WHERE digest = $1", digest
        )

    async def refresh_state(self, conn, **given):
        row = await self._real.refresh_state(conn, **given)
        await self._all_read.wait()
        return row


async def test_without_the_lock_a_refresh_token_works_twice(accounts, monkeypatch) -> None:
    mina = await accounts.member()
    monkeypatch.setattr(sessions, "queries", _Unguarded(sessions.queries, 2))
    answers = await asyncio.gather(*(accounts.refresh(mina["refresh_token"]) for _ in range(2)))
    assert [a.status_code for a in answers] == [200, 200]


async def test_without_the_condition_on_the_balance_its_check_refuses(accounts) -> None:
    mina = await accounts.member()
    with pytest.raises(asyncpg.CheckViolationError):
        await accounts.pool.execute(
            "UPDATE users.members SET points = points - 1 WHERE id = $1",
            UUID(mina["member"]["id"]),
        )


async def test_a_long_lived_token_stays_refused_until_it_has_ended(accounts, monkeypatch) -> None:
    async with transaction(accounts.pool) as conn:
        issuer = Issuer("korder", "korder-api")
        (token,) = await mint(
            conn, issuer, count=1, ttl_s=86_400, slack_s=SLACK_S, progress=lambda _: None
        )
    await accounts.logout("", token)
    (told,) = await accounts.service.revocations(None)
    authenticator = Authenticator(accounts.service, issuer="korder", audience="korder-api")
    watch = SessionWatch(accounts.service, authenticator, 905)
    watch.told(str(told.session_id))
    await watch.poll()
    later = time.time() + 3600
    monkeypatch.setattr("korder.platform.auth.time.time", lambda: later)
    authenticator.revoke([], 0)  # what has run out by then is forgotten
    with pytest.raises(Refusal):
        await authenticator.authenticate_fresh(f"Bearer {token}".encode())

"""No password and no token is in a log, at `debug`, whatever went wrong with the request.

Everything that the tests of this folder have used so far is looked for, not only what is used here.
"""

import json
import re

from korder.kernel.ids import new_id
from tests.contract.client import Api, Person, eventually
from tests.contract.conftest import Logged

#: A JWS, whoever signed it.
JWS = re.compile(r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}")
PASSWORDS = [f"Secret{n}-{new_id().hex}" for n in range(8)]


async def test_no_secret_is_in_the_log(api: Api, system: Logged, member: Person, secrets: set[str]):
    await misbehave(api, member)
    secrets |= set(PASSWORDS)
    log = system.log.read_text()
    assert '"level": "debug"' in log, "the log is there, and at its most talkative"
    leaked = [secret[:6] + "..." for secret in secrets if secret in log]
    assert not leaked, f"{len(leaked)} of {len(secrets)}: {leaked[:3]}"
    assert not JWS.search(log)
    assert not re.search(r"private_key|password_hash|\$argon2id\$", log)


async def test_nothing_went_wrong_that_nobody_foresaw(api: Api, system: Logged):
    """The same log: no failure of ours in all the bad requests of this folder."""
    bad = [
        line
        for line in system.log.read_text().splitlines()
        if line.startswith("{") and json.loads(line).get("level") in ("error", "critical")
    ]
    assert not bad, "\n".join(bad[:5])
    assert "Traceback" not in system.log.read_text()
    counted = await eventually(lambda: api.call("GET", "/metrics"), lambda r: 'status="2' in r.text)
    # While it starts, /health/ready says 503 to whoever waits for it.
    failed = [line for line in counted.text.splitlines() if 'status="5' in line]
    assert not [line for line in failed if "/health/ready" not in line], failed


async def misbehave(api: Api, member: Person) -> None:
    """Requests with secrets where they belong and where they do not."""
    account = await api.signed_up(password=PASSWORDS[0])
    tokens = await api.login(account)
    body = {"email": account["email"], "password": PASSWORDS[1], "name": "n"}
    wrong = [
        ("/v1/auth/signup", body, {}),
        ("/v1/auth/signup", {**body, "email": PASSWORDS[2]}, {}),
        ("/v1/auth/signup", {**body, "passwort": PASSWORDS[3]}, {}),
        ("/v1/auth/signup", {**body, "password": PASSWORDS[4] * 50}, {}),
        ("/v1/auth/login", {"email": account["email"], "password": PASSWORDS[5]}, {}),
        ("/v1/auth/login", {"email": PASSWORDS[6], "password": PASSWORDS[6] + "\0"}, {}),
        ("/v1/auth/refresh", {"refresh_token": PASSWORDS[7]}, {}),
        ("/v1/reservations", {"event_id": tokens["access_token"]}, {}),
        ("/v1/events", {"title": tokens["refresh_token"]}, {}),
        ("/v1/events", {}, {"Idempotency-Key": tokens["access_token"] + " x"}),
    ]
    for path, sent, headers in wrong:
        for by in (None, member):
            response = await api.call("POST", path, sent, by=by, headers=headers)
            assert 400 <= response.status_code < 500
            for secret in (*PASSWORDS, tokens["access_token"], tokens["refresh_token"]):
                assert secret not in response.text, f"{path} says it back"
    await api.call("POST", "/v1/auth/login", content=f'{{"password": "{PASSWORDS[0]}"'.encode())
    for token in (tokens["access_token"] + "x", tokens["refresh_token"]):
        await api.call("GET", "/v1/users/me", headers={"Authorization": f"Bearer {token}"})
    await api.call("GET", "/v1/events", params={"cursor": tokens["access_token"]})
    await api.ok("POST", "/v1/auth/logout", {"refresh_token": tokens["refresh_token"]})

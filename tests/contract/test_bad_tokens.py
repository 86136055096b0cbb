"""Tokens that are not ours, not access tokens, not for us, or no longer: 401 everywhere."""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from korder.domains.user.tokens import load_private
from korder.kernel.ids import new_id
from tests.contract.client import Api, Person, event_body

HUGE = 10**30


@dataclass
class Forge:
    """What a forger may know, and (to be exact about one claim at a time) the real key too."""

    kid: str
    key: rsa.RSAPrivateKey
    genuine: str
    claims: dict[str, Any]
    refresh_token: str

    @property
    def public_der(self) -> bytes:
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(*form)

    @property
    def public_pem(self) -> bytes:
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(*form)

    def signed(self, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """With the real key; `...` leaves a claim or a header field out."""
        return token(
            _set({"alg": "RS256", "typ": "at+jwt", "kid": self.kid}, header or {}),
            _set(self.claims, claims),
            rs256(self.key),
        )


def _set(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**before, **changes}.items() if value is not ...}


def token(header: dict[str, Any], claims: Any, sign: Any) -> str:
    """A JWS whatever it says, without a library that would refuse to make it."""
    signed = b".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
    return b".".join((signed, _b64(sign(signed)))).decode()


def rs256(key: rsa.RSAPrivateKey) -> Any:
    """What signs with the key as our own tokens are signed."""
    return lambda signed: key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


def _b64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


@pytest_asyncio.fixture(scope="module")
async def forge(api: Api) -> Forge:
    tokens = await api.login(await api.signed_up())
    genuine = tokens["access_token"]
    kid = jwt.get_unverified_header(genuine)["kid"]
    raw = await api.db.fetchval("SELECT private_key FROM users.signing_keys WHERE kid = $1", kid)
    claims = jwt.decode(genuine, options={"verify_signature": False})
    return Forge(kid, load_private(raw), genuine, claims, tokens["refresh_token"])


@pytest.fixture
def bad_tokens(forge: Forge) -> dict[str, str]:
    """By name."""
    now, other = int(time.time()), rs256(rsa.generate_private_key(65537, 2048))
    head = {"alg": "RS256", "typ": "at+jwt", "kid": forge.kid}
    first, second, signature = forge.genuine.split(".")
    hs = {"alg": "HS256", "typ": "at+jwt", "kid": forge.kid}

    def hmac_of(key: bytes) -> Any:
        return lambda signed: hmac.digest(key, signed, hashlib.sha256)

    admin = _b64(json.dumps({**forge.claims, "sub": str(new_id()), "roles": ["admin"]}).encode())
    forged = {
        "another key under our kid": token(head, forge.claims, other),
        "an unknown kid": token({**head, "kid": "nobody"}, forge.claims, other),
        "a kid as a path": token({**head, "kid": "../../dev/null"}, forge.claims, other),
        "a kid as SQL": token({**head, "kid": "' OR 1=1 --"}, forge.claims, other),
        "the key brought along": token(
            {**head, "jwk": {"kty": "RSA", "n": "AA", "e": "AQAB"}}, forge.claims, other
        ),
        "alg none": token({**head, "alg": "none"}, forge.claims, lambda _signed: b""),
        "alg None": token({**head, "alg": "None"}, forge.claims, lambda _signed: b""),
        "alg HS256 with the public key": token(hs, forge.claims, hmac_of(forge.public_der)),
        "alg HS256 with the public PEM": token(hs, forge.claims, hmac_of(forge.public_pem)),
        "alg PS256 with our key": forge.signed(header={"alg": "PS256"}),
        "alg EdDSA with our key": forge.signed(header={"alg": "EdDSA"}),
        "alg HS256 with nothing": token(hs, forge.claims, hmac_of(b"")),
        "claims changed": f"{first}.{admin.decode()}.{signature}",
        "no signature": f"{first}.{second}.",
        "two parts": f"{first}.{second}",
        "half a signature": forge.genuine[:-20],
        "claims that are no object": token(head, [1], rs256(forge.key)),
        "refresh as access": forge.refresh_token,
        "a word": "token",
        "five thousand letters": "a" * 5000,
    }
    exact = {
        "expired": forge.signed(exp=now - 60),
        "expires never": forge.signed(exp=...),
        "expires in words": forge.signed(exp="tomorrow"),
        "not yet valid": forge.signed(nbf=now + 600),
        "issued later": forge.signed(iat=now + 600),
        "another issuer": forge.signed(iss="somebody"),
        "no issuer": forge.signed(iss=...),
        "another audience": forge.signed(aud="another-api"),
        "no audience": forge.signed(aud=...),
        "typ refresh": forge.signed(typ="refresh"),
        "no typ": forge.signed(typ=...),
        "header typ JWT": forge.signed(header={"typ": "JWT"}),
        "no header typ": forge.signed(header={"typ": ...}),
        "no kid": forge.signed(header={"kid": ...}),
        "a kid that is no text": forge.signed(header={"kid": 1}),
        "no subject": forge.signed(sub=...),
        "a subject that is no id": forge.signed(sub="admin"),
        "a subject that is no text": forge.signed(sub=1),
        "no session": forge.signed(sid=...),
        "a session that is no id": forge.signed(sid="' OR 1=1 --"),
        "a critical extension": forge.signed(header={"crit": ["x"], "x": 1}),
    }
    return {**forged, **exact}


@pytest.mark.usefixtures("unchanged")
async def test_bad_tokens_are_refused_everywhere(
    api: Api, organizer: Person, forge: Forge, bad_tokens: dict[str, str]
):
    await api.ok("GET", "/v1/users/me", headers=_bearer(forge.signed()))  # the control
    calls = [
        ("GET", "/v1/users/me", None),
        ("POST", "/v1/reservations", {}),
        ("GET", "/v1/events", None),
        ("POST", "/v1/events", event_body()),
    ]
    for name, bad in bad_tokens.items():
        for method, path, body in calls:
            response = await api.call(method, path, body, headers=_bearer(bad))
            assert response.status_code == 401, f"{name}: {method} {path} {response.text}"
            assert response.json()["code"] == "unauthenticated"


@pytest.mark.usefixtures("unchanged")
async def test_odd_authorization_headers(api: Api, forge: Forge):
    good = forge.genuine
    for odd in (
        "", "Bearer", good, f"Basic {good}", f"Token {good}", f"Bearer{good}",
        f"Bearer {good} {good}", f"Bearer {good},", 'Bearer "' + good + '"', "Bearer \xff\xfe", "é",
        "Bearer ' OR 1=1 --", "Bearer null", f"DPoP {good}", "Negotiate x" * 500,
    ):  # fmt: skip
        headers = {"Authorization": odd.encode("latin-1")}
        for method, path in (("GET", "/v1/users/me"), ("POST", "/v1/reservations")):
            response = await api.call(method, path, None, headers=headers)
            assert response.status_code == 401, f"{odd[:40]}: {method} {response.text}"


async def test_the_scheme_is_in_any_case(api: Api, forge: Forge):
    for scheme in ("Bearer", "bearer", "BEARER"):
        await api.ok("GET", "/v1/users/me", headers={"Authorization": f"{scheme} {forge.genuine}"})


async def test_roles_in_a_token_are_not_believed(api: Api, forge: Forge):
    """Even in one that our own key signed: roles are asked for where they are kept."""
    for path in ("/v1/users", "/v1/users?email=a@b.c"):
        bold = _bearer(forge.signed(roles=["admin", "organizer"]))
        await api.refused(403, "forbidden", "GET", path, headers=bold)


async def test_a_member_who_never_was_is_nobody(api: Api, organizer: Person, forge: Forge):
    """Signed by our key, for a member that is not there: no rows, no rights, no 5xx."""
    ghost = _bearer(forge.signed(sub=str(new_id()), sid=str(new_id())))
    await api.refused(401, "unauthenticated", "GET", "/v1/users/me", headers=ghost)
    await api.refused(401, "unauthenticated", "PATCH", "/v1/users/me", {"name": "x"}, headers=ghost)
    await api.refused(403, "forbidden", "POST", "/v1/events", event_body(), headers=ghost)
    await api.refused(403, "forbidden", "GET", "/v1/users", headers=ghost)
    assert (await api.ok("GET", "/v1/reservations", headers=ghost))["items"] == []


async def test_numbers_in_a_token_may_be_anything(api: Api, forge: Forge):
    for claims in ({"exp": HUGE}, {"exp": -HUGE}, {"exp": 1e400}, {"iat": HUGE}, {"nbf": -1}):
        headers = _bearer(forge.signed(**claims))
        response = await api.call("GET", "/v1/users/me", headers=headers)
        assert response.status_code in (200, 401), claims
    assert UUID(forge.claims["sub"])


def _bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}

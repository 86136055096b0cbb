"""Tokens: what we issue, our own verifier takes, and nothing else."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from korder.domains.user.tokens import (
    Issuer,
    Signer,
    jwk,
    load_private,
    load_public,
    new_key_pair,
    new_refresh_token,
    refresh_digest,
    thumbprint,
)
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import new_id
from korder.platform.auth import Authenticator

PAIR = new_key_pair()
PUBLIC = load_public(PAIR.public)
SIGNER = Signer(PAIR.kid, load_private(PAIR.private))
ISSUER = Issuer("korder", "korder-api")


def issue(issuer: Issuer = ISSUER, signer: Signer = SIGNER, life_s: int = 900) -> str:
    now = datetime.now(UTC)
    return issuer.access_token(
        signer,
        member_id=new_id(),
        session_id=new_id(),
        roles=["member"],
        issued_at=min(now, now + timedelta(seconds=life_s - 1)),
        expires_at=now + timedelta(seconds=life_s),
    )


class Keys:
    async def public_keys(self):
        return {PAIR.kid: PUBLIC}


async def verify(token: str):
    authenticator = Authenticator(Keys(), issuer="korder", audience="korder-api")
    return await authenticator.authenticate_fresh(b"Bearer " + token.encode())


async def test_our_verifier_takes_our_token() -> None:
    token = issue()
    principal = await verify(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert str(principal.member_id) == claims["sub"]
    assert str(principal.session_id) == claims["sid"]
    assert claims["roles"] == ["member"]
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "typ": "at+jwt", "kid": PAIR.kid}


def _with(token: str, header: dict | None = None, claims: dict | None = None) -> str:
    """The token with parts changed and the signature left as it was."""
    parts = token.split(".")
    for at, change in ((0, header), (1, claims)):
        if change is not None:
            old = json.loads(base64.urlsafe_b64decode(parts[at] + "=="))
            raw = json.dumps({**old, **change}).encode()
            parts[at] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return ".".join(parts)


OF_A_STRANGER = Signer(PAIR.kid, load_private(new_key_pair().private))


def _as_hs256(key: bytes) -> str:
    """Our claims with an HMAC whose key everybody knows, which a library would refuse to make."""
    head, claims, _ = _with(issue(), header={"alg": "HS256"}).split(".")
    mac = hmac.digest(key, f"{head}.{claims}".encode(), hashlib.sha256)
    return f"{head}.{claims}." + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def _signed_as(algorithm: str) -> str:
    """By our own key, in a way that is not ours."""
    claims = jwt.decode(issue(), options={"verify_signature": False})
    headers = {"kid": PAIR.kid, "typ": "at+jwt"}
    return jwt.encode(claims, SIGNER.private_key, algorithm, headers)


PUBLIC_PEM = PUBLIC.public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.mark.parametrize(
    "token",
    [
        issue(life_s=-60),
        issue(Issuer("somebody", "korder-api")),
        issue(Issuer("korder", "another-api")),
        issue(signer=OF_A_STRANGER),
        _with(issue(), claims={"roles": ["admin"]}),
        _with(issue(), claims={"exp": 4102444800}),
        _with(issue(), header={"alg": "none"}),
        _with(issue(), header={"alg": "none"}).rpartition(".")[0] + ".",
        _with(issue(), header={"typ": "JWT"}),
        _with(issue(), header={"kid": None}),
        _as_hs256(PUBLIC_PEM),
        _as_hs256(PUBLIC_PEM.strip()),
        _as_hs256(PAIR.public),
        _as_hs256(b""),
        _signed_as("RS512"),
        _signed_as("PS256"),
        jwt.encode({"sub": "x"}, "k" * 32, "HS256", {"kid": PAIR.kid, "typ": "at+jwt"}),
        new_refresh_token(),
        "",
        "a.b.c",
    ],
)
async def test_our_verifier_takes_nothing_else(token: str) -> None:
    with pytest.raises(Refusal) as refusal:
        await verify(token)
    assert refusal.value.code is Code.UNAUTHENTICATED


def test_a_refresh_token_is_256_random_bits_kept_as_a_digest() -> None:
    token = new_refresh_token()
    assert len(base64.urlsafe_b64decode(token + "=")) == 32
    assert token != new_refresh_token()
    assert refresh_digest(token) == hashlib.sha256(token.encode()).digest()
    refresh_digest("한글도\ud800 괜찮다")  # whatever was sent, it is only unknown


def test_a_jwk_is_the_public_key_and_nothing_more() -> None:
    shown = msgspec.to_builtins(jwk(PAIR.kid, PUBLIC))
    assert set(shown) == {"kid", "kty", "n", "e", "alg", "use"}
    assert (shown["kty"], shown["e"], shown["alg"]) == ("RSA", "AQAB", "RS256")
    assert jwt.PyJWK(shown).key.public_numbers() == PUBLIC.public_numbers()
    assert shown["kid"] == thumbprint(PUBLIC) == thumbprint(SIGNER.private_key.public_key())


def test_the_thumbprint_is_that_of_the_rfc() -> None:
    """RFC 7638, 3.1."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_B"
        "JECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_F"
        "DW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4"
        "vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    number = int.from_bytes(base64.urlsafe_b64decode(modulus + "=="), "big")
    known = RSAPublicNumbers(65537, number).public_key()
    assert thumbprint(known) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_keys_of_other_kinds_are_not_loaded() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    public = other.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    private = other.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for load, raw in ((load_public, public), (load_private, private), (load_private, b"x")):
        with pytest.raises(ValueError):
            load(raw)

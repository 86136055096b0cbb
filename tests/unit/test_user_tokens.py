"""Tokens: what we issue, our own verifier takes, and nothing else."""

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from korder.domains.user.tokens import (
    Issuer,
    Signer,
    jwk,
    new_refresh_token,
    new_seed,
    refresh_digest,
)
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import new_id
from korder.platform.auth import Authenticator

SEED = new_seed()
SIGNER = Signer(SEED.kid, Ed25519PrivateKey.from_private_bytes(SEED.private))
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
        return {SEED.kid: Ed25519PublicKey.from_public_bytes(SEED.public)}


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
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "at+jwt", "kid": SEED.kid}


def _with(token: str, header: dict | None = None, claims: dict | None = None) -> str:
    """The token with parts changed and the signature left as it was."""
    parts = token.split(".")
    for at, change in ((0, header), (1, claims)):
        if change is not None:
            old = json.loads(base64.urlsafe_b64decode(parts[at] + "=="))
            raw = json.dumps({**old, **change}).encode()
            parts[at] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return ".".join(parts)


STRANGER = new_seed()
OF_A_STRANGER = Signer(SEED.kid, Ed25519PrivateKey.from_private_bytes(STRANGER.private))


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
        jwt.encode({"sub": "x"}, "k" * 32, "HS256", {"kid": SEED.kid, "typ": "at+jwt"}),
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
    shown = jwk(SEED.kid, SEED.public)
    assert base64.urlsafe_b64decode(shown.x + "=") == SEED.public
    assert not hasattr(shown, "d")
    # RFC 8037, appendix A.3: the thumbprint of the key of appendix A.2.
    from korder.domains.user.tokens import _thumbprint  # noqa: PLC0415

    known = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    assert _thumbprint(known) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

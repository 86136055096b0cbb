"""Access tokens (JWT, EdDSA), refresh tokens (opaque), and keys as the JWKS shows them."""

import base64
import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from korder.platform.auth import ACCESS_HEADER_TYPE, ALGORITHM

_RAW = serialization.Encoding.Raw
REFRESH_BYTES = 32


class Jwk(msgspec.Struct, frozen=True):
    """A public key (RFC 8037). `x` is the key's 32 bytes in base64url."""

    kid: str
    x: str
    kty: str = "OKP"
    crv: str = "Ed25519"
    alg: str = ALGORITHM
    use: str = "sig"


class Seed(NamedTuple):
    """A fresh key pair, 32 raw bytes each; `kid` is the RFC 7638 thumbprint of the public key."""

    kid: str
    private: bytes
    public: bytes


class Signer(NamedTuple):
    """The key that signs now."""

    kid: str
    private_key: Ed25519PrivateKey


class Issuer(NamedTuple):
    """Who the tokens are from, whom they are for."""

    issuer: str
    audience: str

    def access_token(
        self,
        signer: Signer,
        *,
        member_id: UUID,
        session_id: UUID,
        roles: Sequence[str],
        issued_at: datetime,
        expires_at: datetime,
    ) -> str:
        """A signed access token (RFC 9068). `roles` are for display: nobody trusts them."""
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": str(member_id),
            "sid": str(session_id),
            "typ": "access",
            "iat": int(issued_at.timestamp()),
            "nbf": int(issued_at.timestamp()),
            "exp": int(expires_at.timestamp()),
            "jti": secrets.token_hex(16),
            "roles": list(roles),
        }
        headers = {"typ": ACCESS_HEADER_TYPE, "kid": signer.kid}
        return jwt.encode(claims, signer.private_key, algorithm=ALGORITHM, headers=headers)


def new_refresh_token() -> str:
    """256 random bits as 43 characters of base64url."""
    return secrets.token_urlsafe(REFRESH_BYTES)


def refresh_digest(token: str) -> bytes:
    """What the database keeps of a refresh token; no salt, since nobody guesses 256 bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def new_seed() -> Seed:
    """A fresh Ed25519 key."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(_RAW, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    public = key.public_key().public_bytes(_RAW, serialization.PublicFormat.Raw)
    return Seed(_thumbprint(public), private, public)


def jwk(kid: str, public: bytes) -> Jwk:
    """How the JWKS shows a key."""
    return Jwk(kid=kid, x=_base64url(public))


def _thumbprint(public: bytes) -> str:
    members = f'{{"crv":"Ed25519","kty":"OKP","x":"{_base64url(public)}"}}'
    return _base64url(hashlib.sha256(members.encode()).digest())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

"""Access tokens (JWT, RS256), refresh tokens (opaque), and keys as the JWKS shows them."""

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
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from korder.platform.auth import ACCESS_HEADER_TYPE, ALGORITHM

_DER = serialization.Encoding.DER
#: What RS256 needs at least (RFC 7518, 3.3); a longer key would take longer to verify.
RSA_BITS, RSA_EXPONENT = 2048, 65537
REFRESH_BYTES = 32


class Jwk(msgspec.Struct, frozen=True):
    """A public key (RFC 7518, 6.3.1): modulus `n` and exponent `e`, big-endian, in base64url."""

    kid: str
    n: str
    e: str
    kty: str = "RSA"
    alg: str = ALGORITHM
    use: str = "sig"


class KeyPair(NamedTuple):
    """A fresh key; `kid` is the RFC 7638 thumbprint of its public half.

    `private` is PKCS#8, unencrypted, and `public` SubjectPublicKeyInfo; both DER.
    """

    kid: str
    private: bytes
    public: bytes


class Signer(NamedTuple):
    """The key that signs now."""

    kid: str
    private_key: RSAPrivateKey


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


def new_key_pair() -> KeyPair:
    """A fresh RSA key. Takes about 100 ms, in which other threads go on."""
    key = rsa.generate_private_key(RSA_EXPONENT, RSA_BITS)
    return KeyPair(
        thumbprint(key.public_key()),
        key.private_bytes(_DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def load_private(der: bytes) -> RSAPrivateKey:
    """The private key that `new_key_pair` made; ValueError when it is not one.

    Its primes are not tested again: that takes 40 ms in which no other thread runs, and is meant
    for keys of strangers.
    """
    key = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("not an RSA key")
    return key


def load_public(der: bytes) -> RSAPublicKey:
    """The public key that `new_key_pair` made; ValueError when it is not one."""
    key = serialization.load_der_public_key(der)
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not an RSA key")
    return key


def jwk(kid: str, public: RSAPublicKey) -> Jwk:
    """How the JWKS shows a key."""
    numbers = public.public_numbers()
    return Jwk(kid=kid, n=_base64url_uint(numbers.n), e=_base64url_uint(numbers.e))


def thumbprint(public: RSAPublicKey) -> str:
    """SHA-256 over the members that RFC 7638 (3.2) names, in base64url."""
    shown = jwk("", public)
    members = f'{{"e":"{shown.e}","kty":"{shown.kty}","n":"{shown.n}"}}'
    return _base64url(hashlib.sha256(members.encode()).digest())


def _base64url_uint(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

"""One look at an access token: RS256 (RFC 7515, 7518) and the claims of RFC 9068, nothing else.

In the opening second nobody's token has been seen before, so this is on the reserve path. PyJWT
spends two thirds of its time outside the signature, mostly on checking base64 character by
character in Python; see docs/adr/0005 for the figures. PyJWT still issues the tokens and reads
their headers, and `tests/unit/test_access_token.py` holds both to the same answers.
"""

import binascii
from base64 import b64decode
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

_PADDING, _HASH = PKCS1v15(), SHA256()


class BadTokenError(Exception):
    """Not a valid access token; why is nobody's business but ours."""


class Claims(msgspec.Struct, frozen=True):
    """What a token says; instants in seconds since the epoch. Further claims are ignored."""

    iss: str
    aud: str | list[str]
    sub: UUID
    sid: UUID
    typ: str
    exp: int | float
    iat: int | float
    nbf: int | float = 0


_decode = msgspec.json.Decoder(Claims).decode


def verified_claims(token: bytes, key: RSAPublicKey) -> Claims:
    """The claims of a compact JWS, its signature checked first; the header is the caller's part.

    Raises BadTokenError.
    """
    signed, _, signature = token.rpartition(b".")
    header, _, payload = signed.partition(b".")
    if not header or b"." in payload:
        raise BadTokenError
    try:
        key.verify(_base64url(signature), signed, _PADDING, _HASH)
        return _decode(_base64url(payload))
    except (InvalidSignature, binascii.Error, msgspec.MsgspecError, UnicodeDecodeError):
        raise BadTokenError from None


def check(claims: Claims, *, issuer: str, audience: str, now_s: float, leeway_s: float) -> None:
    """Raise BadTokenError unless it is an access token, from us, for us, and of this time."""
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if claims.typ != "access" or claims.iss != issuer or audience not in audiences:
        raise BadTokenError
    if claims.exp <= now_s - leeway_s or max(claims.iat, claims.nbf) > now_s + leeway_s:
        raise BadTokenError


def _base64url(text: bytes) -> bytes:
    if b"=" in text:
        raise BadTokenError  # RFC 7515 leaves the padding out
    return b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)

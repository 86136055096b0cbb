"""Who asks: access tokens (JWT, RS256) verified locally with published keys.

No identity header is believed, and no server is asked: a verified token is cached until it expires
or its session is revoked. RS256, because a first look costs the least: docs/adr/0005.
"""

import asyncio
import heapq
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from korder.kernel.errors import Code, Refusal, overloaded
from korder.platform.access_token import BadTokenError, check, verified_claims

#: `typ` in the header of an access token (RFC 9068).
ACCESS_HEADER_TYPE = "at+jwt"
ALGORITHM = "RS256"
#: Verified tokens kept per process; about 1.4 KB each.
CACHED_MAX = 50_000
#: Different token headers remembered: one a key, and whatever forgers send.
HEADERS_MAX = 256
#: Clocks of two machines may differ by this much.
LEEWAY_S = 5
#: A forged `kid` makes us look for new keys at most this often.
KEY_LOOKUP_S = 1.0
TOKEN_MAX_BYTES = 4096


class Principal(NamedTuple):
    """Proved by a verified access token. `expires_s` is in seconds since the epoch."""

    member_id: UUID
    member_raw: bytes
    session_id: UUID
    expires_s: float


class KeySource(Protocol):
    """Where the published keys come from."""

    async def public_keys(self) -> Mapping[str, RSAPublicKey]:
        """All keys whose tokens may still be alive, by `kid`."""
        ...


class _UnknownKeyError(Exception):
    """The token names a key that we have not seen."""


class Authenticator:
    """One per process. `use_keys` before the first token; `revoke` as sessions end."""

    def __init__(self, source: KeySource, *, issuer: str, audience: str) -> None:
        self._source = source
        self._issuer = issuer
        self._audience = audience
        self._keys: Mapping[str, RSAPublicKey] = {}
        self._cache: dict[bytes, Principal] = {}
        self._by_session: dict[UUID, list[bytes]] = {}
        self._revoked: dict[UUID, float] = {}
        #: One entry for each of `_revoked`, soonest first; one put off since may come too early.
        self._revoked_ends: list[tuple[float, UUID]] = []
        self._kids: dict[bytes, str] = {}
        self._looked_up_at = float("-inf")
        self._looking_up: asyncio.Future[Mapping[str, RSAPublicKey]] | None = None

    def use_keys(self, keys: Mapping[str, RSAPublicKey]) -> None:
        """Replace the published keys; tokens of a key that is gone are verified anew."""
        if set(self._keys) - set(keys):
            self._cache.clear()
            self._by_session.clear()
        self._keys = dict(keys)

    def revoke(self, session_ids: Iterable[UUID], kept_s: float) -> None:
        """Refuse the tokens of these sessions from now on; forget it when they have expired."""
        now = time.time()
        for session_id in session_ids:
            self._refuse_until(session_id, now + kept_s)
            for token in self._by_session.pop(session_id, ()):
                self._cache.pop(token, None)
        self._forget_revoked(now)

    def _refuse_until(self, session_id: UUID, end: float) -> None:
        known = self._revoked.get(session_id)
        self._revoked[session_id] = end if known is None else max(known, end)
        if known is None:
            heapq.heappush(self._revoked_ends, (end, session_id))

    def _forget_revoked(self, now: float) -> None:
        ends = self._revoked_ends
        while ends and ends[0][0] <= now:
            session_id = ends[0][1]
            end = self._revoked[session_id]
            if end > now:  # revoked once more since, for longer
                heapq.heapreplace(ends, (end, session_id))
            else:
                heapq.heappop(ends)
                del self._revoked[session_id]

    def cached(self, authorization: bytes | None) -> Principal | None:
        """The principal of a header verified before, if it still holds."""
        found = self._cache.get(authorization) if authorization is not None else None
        return found if found is not None and found.expires_s > time.time() else None

    def authenticate(self, authorization: bytes | None) -> Principal:
        """The principal of an `Authorization` header, from the cache or verified now.

        Raises Refusal `unauthenticated`; also for a key that is not loaded yet, for which
        `authenticate_fresh` looks first.
        """
        found = self.cached(authorization)
        if found is not None:
            return found
        try:
            return self._verify(authorization)
        except _UnknownKeyError:
            raise Refusal(Code.UNAUTHENTICATED) from None

    async def authenticate_fresh(self, authorization: bytes | None) -> Principal:
        """As `authenticate`, but a key published a moment ago is fetched first."""
        found = self.cached(authorization)
        if found is not None:
            return found
        try:
            return self._verify(authorization)
        except _UnknownKeyError:
            await self._look_up_keys()
        if not self._keys:
            raise overloaded()  # no key yet is our lack, not the token's fault
        return self.authenticate(authorization)

    async def _look_up_keys(self) -> None:
        """Fetch the keys, once for all who wait for it, and at most once a second."""
        if self._looking_up is None:
            if time.monotonic() - self._looked_up_at < KEY_LOOKUP_S:
                return
            self._looked_up_at = time.monotonic()
            self._looking_up = asyncio.ensure_future(self._source.public_keys())
            self._looking_up.add_done_callback(self._looked_up)
        self.use_keys(await asyncio.shield(self._looking_up))

    def _looked_up(self, _: object) -> None:
        self._looking_up = None

    def _verify(self, authorization: bytes | None) -> Principal:
        if authorization is None or len(authorization) > TOKEN_MAX_BYTES:
            raise Refusal(Code.UNAUTHENTICATED)
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token:
            raise Refusal(Code.UNAUTHENTICATED)
        try:
            principal = self._claims(token.strip())
        except (BadTokenError, jwt.InvalidTokenError, ValueError, TypeError, AttributeError):
            raise Refusal(Code.UNAUTHENTICATED) from None
        if principal.session_id in self._revoked:
            raise Refusal(Code.UNAUTHENTICATED)
        self._remember(authorization, principal)
        return principal

    def _claims(self, token: bytes) -> Principal:
        kid = self._kid_of(token)
        key = self._keys.get(kid)
        if key is None:
            raise _UnknownKeyError
        claims = verified_claims(token, key)
        check(
            claims,
            issuer=self._issuer,
            audience=self._audience,
            now_s=time.time(),
            leeway_s=LEEWAY_S,
        )
        return Principal(claims.sub, claims.sub.bytes, claims.sid, claims.exp + LEEWAY_S)

    def _kid_of(self, token: bytes) -> str:
        """The key that an access token names; ValueError for anything that is not one.

        All tokens of one key begin with the same bytes, so the header is parsed once for all of
        them. It must be exactly ours: no other algorithm, and no extension to be understood.
        """
        segment = token.partition(b".")[0]
        kid = self._kids.get(segment)
        if kid is None:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            if header != {"alg": ALGORITHM, "typ": ACCESS_HEADER_TYPE, "kid": kid}:
                raise ValueError("not an access token")
            if not isinstance(kid, str):
                raise ValueError("no kid")
            if len(self._kids) >= HEADERS_MAX:
                self._kids.clear()
            self._kids[segment] = kid
        return kid

    def _remember(self, authorization: bytes, principal: Principal) -> None:
        while len(self._cache) >= CACHED_MAX:
            self._forget(next(iter(self._cache)))
        self._cache[authorization] = principal
        self._by_session.setdefault(principal.session_id, []).append(authorization)

    def _forget(self, authorization: bytes) -> None:
        """Drop one token; the other tokens of its session must stay known to `revoke`."""
        session_id = self._cache.pop(authorization).session_id
        others = self._by_session[session_id]
        others.remove(authorization)
        if not others:
            del self._by_session[session_id]

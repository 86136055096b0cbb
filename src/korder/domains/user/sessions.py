"""Signing in and out: refresh families, their rotation, and what ends them.

Lock order: the session row, then anything else; a member's row before its sessions. An answer of
"no" that ends a family must commit, so it is decided inside the transaction and raised after it.
"""

from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import msgspec

from korder.domains.user.contract import Revocation
from korder.domains.user.keys import KeyRing
from korder.domains.user.model import Rotation, decide_rotation, normal_email
from korder.domains.user.passwords import Passwords
from korder.domains.user.store import queries
from korder.domains.user.tokens import Issuer, new_refresh_token, refresh_digest
from korder.kernel.clock import utc_now
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import new_id
from korder.platform.auth import Principal
from korder.platform.invalidation import Invalidation
from korder.platform.postgres import Connection, Pool, transaction
from korder.settings import Settings

#: Topic on which revoked session ids are told.
SESSION_TOPIC = "session"


class Tokens(msgspec.Struct, frozen=True):
    """What a sign-in gives. `expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the scheme's name


class _Lives(NamedTuple):
    """The instants of a pair of tokens."""

    now: datetime
    access_until: datetime
    refresh_until: datetime


class Sessions:
    """Use cases of signing in; each method is one transaction."""

    def __init__(
        self,
        pool: Pool,
        invalidation: Invalidation,
        passwords: Passwords,
        keys: KeyRing,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._invalidation = invalidation
        self._passwords = passwords
        self._keys = keys
        self._issuer = Issuer(settings.issuer, settings.audience)
        self._access_life = timedelta(seconds=settings.access_token_s)
        self._refresh_life = timedelta(seconds=settings.refresh_token_s)

    async def login(self, email: str, password: str) -> Tokens:
        """Open a family.

        Raises Refusal `overloaded`, and `unauthenticated` after the same work whether the address
        is unknown or the password wrong.
        """
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.member_by_email(conn, email=normal_email(email))
        encoded: str | None = row["password_hash"] if row else None
        right = await self._passwords.verify(encoded, password)
        if not right or row is None or encoded is None:
            raise _wrong_credentials()
        signer = await self._keys.signer()  # outside the transaction: it may need a connection
        lives, session_id, refresh = self._lives(), new_id(), new_refresh_token()
        async with transaction(self._pool) as conn:
            opened = await queries.open_session(
                conn,
                id=session_id,
                member_id=row["id"],
                password_hash=encoded,
                now=lives.now,
                expires_at=lives.refresh_until,
                access_expires_at=lives.access_until,
            )
            if opened is None:  # deleted, or the password changed, while we were hashing
                raise _wrong_credentials()
            await self._keep(conn, refresh, session_id, lives)
        if self._passwords.outdated(encoded):
            await self._rehash(row["id"], encoded, password)
        access = self._issuer.access_token(
            signer,
            member_id=row["id"],
            session_id=session_id,
            roles=row["roles"],
            issued_at=lives.now,
            expires_at=lives.access_until,
        )
        return self._tokens(access, refresh)

    async def refresh(self, token: str) -> Tokens:
        """Spend a refresh token for a new pair.

        Raises Refusal `unauthenticated` for one that is unknown, expired, revoked or spent; a
        spent one also ends its family.
        """
        signer = await self._keys.signer()
        digest, lives, fresh = refresh_digest(token), self._lives(), new_refresh_token()
        async with transaction(self._pool) as conn:
            if await queries.lock_session_of_token(conn, digest=digest) is None:
                raise _spent()
            row = await queries.refresh_state(conn, digest=digest, now=lives.now)
            decision = decide_rotation(
                used=row["used"],
                expired=row["expired"],
                revoked=row["revoked"],
                deleted=row["deleted"],
            )
            session_id = row["session_id"]
            if decision is Rotation.REUSED:
                await queries.revoke_session(conn, id=session_id, reason="reuse")
            elif decision is Rotation.ROTATE:
                await queries.spend_token(conn, digest=digest, now=lives.now)
                await self._keep(conn, fresh, session_id, lives)
        if decision is Rotation.REUSED:
            await self.tell([session_id])
        if decision is not Rotation.ROTATE:
            raise _spent()
        access = self._issuer.access_token(
            signer,
            member_id=row["member_id"],
            session_id=session_id,
            roles=row["roles"],
            issued_at=lives.now,
            expires_at=lives.access_until,
        )
        return self._tokens(access, fresh)

    async def logout(self, token: str, principal: Principal | None) -> None:
        """End the family of a refresh token, and that of the access token that came along.

        Unknown tokens are no error (RFC 7009, section 2.2): what was to be ended has ended.
        """
        ended = []
        async with transaction(self._pool) as conn:
            family = await queries.lock_session_of_token(conn, digest=refresh_digest(token))
            if family is not None:
                ended.append(await queries.revoke_session(conn, id=family, reason="logout"))
        if principal is not None and principal.session_id != family:
            # Its own transaction: two families locked in one could meet another's opposite order.
            async with transaction(self._pool) as conn:
                ended.append(
                    await queries.revoke_member_session(
                        conn,
                        id=principal.session_id,
                        member_id=principal.member_id,
                        reason="logout",
                    )
                )
        await self.tell([session_id for session_id in ended if session_id is not None])

    async def revoke_all(self, conn: Connection, member_id: UUID, reason: str) -> list[UUID]:
        """End every family of a member, in the caller's transaction.

        The caller gives the ids to `tell` once it has committed.
        """
        rows = queries.revoke_sessions_of(conn, member_id=member_id, reason=reason)
        return [row["id"] async for row in rows]

    async def tell(self, session_ids: list[UUID]) -> None:
        """Tell every process that these sessions are over; after the commit."""
        for session_id in session_ids:
            await self._invalidation.publish(SESSION_TOPIC, str(session_id))

    async def revocations(self, since: datetime | None) -> list[Revocation]:
        """See `contract.UserContract.revocations`."""
        async with self._pool.acquire(timeout=5) as conn:
            rows = [row async for row in queries.revocations(conn, since=since)]
        return [Revocation(*row) for row in rows]

    def _lives(self) -> _Lives:
        # Whole seconds, as in the token: the session row must not end before it.
        now = utc_now()
        issued = now.replace(microsecond=0)
        return _Lives(now, issued + self._access_life, now + self._refresh_life)

    async def _keep(self, conn: Connection, token: str, session_id: UUID, lives: _Lives) -> None:
        """Store the new refresh token, and let the family live as long as its newest tokens."""
        await queries.insert_refresh_token(
            conn,
            digest=refresh_digest(token),
            session_id=session_id,
            now=lives.now,
            expires_at=lives.refresh_until,
        )
        await queries.extend_session(
            conn,
            id=session_id,
            expires_at=lives.refresh_until,
            access_expires_at=lives.access_until,
        )

    async def _rehash(self, member_id: UUID, old: str, password: str) -> None:
        try:
            new = await self._passwords.hash(password)
        except Refusal:
            return  # too busy now; the next sign-in does it
        async with self._pool.acquire(timeout=5) as conn:
            await queries.replace_hash(conn, id=member_id, old=old, new=new)

    def _tokens(self, access: str, refresh: str) -> Tokens:
        return Tokens(access, refresh, expires_in=int(self._access_life.total_seconds()))


def _wrong_credentials() -> Refusal:
    return Refusal(Code.UNAUTHENTICATED, detail_key="unauthenticated.credentials")


def _spent() -> Refusal:
    return Refusal(Code.UNAUTHENTICATED, detail_key="unauthenticated.refresh")

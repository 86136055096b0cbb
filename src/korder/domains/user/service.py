"""The user domain as one object: what `bootstrap` builds, others ask and controllers use."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from korder.domains.user.contract import Revocation
from korder.domains.user.keys import RETIRED_SLACK_S, KeyRing
from korder.domains.user.members import Members
from korder.domains.user.passwords import Passwords
from korder.domains.user.points import Points
from korder.domains.user.sessions import Sessions
from korder.domains.user.store import queries
from korder.platform.invalidation import Invalidation
from korder.platform.postgres import Connection, Pool
from korder.settings import Settings

#: Rows deleted by one statement, so that none holds its locks for long, and statements of one
#: kind in one call: a million rows go in ten calls.
HOUSEKEEPING_BATCH, HOUSEKEEPING_ROUNDS = 5000, 20


class UserService:
    """Implements `contract.UserContract`; use cases are in its four parts."""

    def __init__(self, pool: Pool, invalidation: Invalidation, settings: Settings) -> None:
        self._pool = pool
        self._key_slack_s = settings.access_token_s + RETIRED_SLACK_S
        self._passwords = Passwords(settings.hash_concurrency, settings.hash_queue_max)
        self.keys = KeyRing(pool, settings.access_token_s)
        self.sessions = Sessions(pool, invalidation, self._passwords, self.keys, settings)
        self.members = Members(pool, invalidation, self._passwords, self.sessions)
        self.points = Points(pool)

    async def start(self) -> None:
        """Have a signing key and keep up with its rotation; PostgreSQL may come later."""
        await self.keys.start()

    async def stop(self) -> None:
        """End the background task and the hashing threads."""
        await self.keys.stop()
        self._passwords.close()

    async def roles_of(self, member_id: UUID) -> frozenset[str]:
        """See `contract.UserContract.roles_of`."""
        return await self.members.roles_of(member_id)

    async def public_keys(self) -> dict[str, RSAPublicKey]:
        """See `contract.UserContract.public_keys`."""
        return {key.kid: key.public_key for key in await self.keys.reload()}

    async def revocations(self, since: datetime | None) -> list[Revocation]:
        """See `contract.UserContract.revocations`."""
        return await self.sessions.revocations(since)

    async def housekeeping(self) -> Mapping[str, int]:
        """Delete what has outlived its use; how many rows of each kind went.

        Bounded; may be called from any number of processes.
        """
        async with self._pool.acquire(timeout=5) as conn:
            return {
                "answers": await _all_of(conn, queries.delete_old_answers),
                "refresh_tokens": await _all_of(conn, queries.delete_old_tokens),
                "sessions": await _all_of(conn, queries.delete_old_sessions),
                "signing_keys": await queries.delete_old_keys(conn, slack_s=self._key_slack_s),
            }


async def _all_of(conn: Connection, delete: Callable[..., Awaitable[int]]) -> int:
    """Repeat a bounded deletion until there is nothing left, or enough is done for now."""
    total = 0
    for _ in range(HOUSEKEEPING_ROUNDS):
        gone = await delete(conn, most=HOUSEKEEPING_BATCH)
        total += gone
        if gone < HOUSEKEEPING_BATCH:
            break
    return total

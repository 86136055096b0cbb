"""The signing keys: made once, rotated without signing anyone out.

A new key is published at once and signs only `PUBLISH_LEAD_S` later. Every process reads the keys
every `RELOAD_S`, so all of them know it before the first token it signs. An old key stays
published until the last token it may have signed has expired.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from korder.domains.user.store import queries
from korder.domains.user.tokens import (
    Jwk,
    Signer,
    jwk,
    load_private,
    load_public,
    new_key_pair,
)
from korder.kernel.errors import overloaded
from korder.platform.postgres import UNAVAILABLE, Connection, Pool, transaction

log = structlog.get_logger(__name__)

RELOAD_S = 2.0
PUBLISH_LEAD_S = 10
#: Beyond a token's life: for a signer that has not read its successor yet, and for slow clocks.
RETIRED_SLACK_S = 60


class SigningKey(NamedTuple):
    """One published key. `needed_until` is None while it is not retired."""

    kid: str
    private_der: bytes
    public_der: bytes
    created_at: datetime
    not_before: datetime
    retired_at: datetime | None
    needed_until: datetime | None
    state: str  # next | signing | retired

    @property
    def public_key(self) -> RSAPublicKey:
        """To verify with."""
        return load_public(self.public_der)

    def signer(self) -> Signer:
        """To sign with; to be kept, so that the key is parsed once and not for every token."""
        return Signer(self.kid, load_private(self.private_der))


class KeyRing:
    """The keys as this process knows them. `access_token_s` is the life of ordinary tokens."""

    def __init__(self, pool: Pool, access_token_s: int) -> None:
        self._pool = pool
        self._slack_s = access_token_s + RETIRED_SLACK_S
        self._keys: list[SigningKey] = []
        self._signer: Signer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the first key if there is none, read the keys, and go on reading them.

        When PostgreSQL is not there yet this returns all the same, and tries on.
        """
        with contextlib.suppress(*UNAVAILABLE):
            await self.reload()
        self._task = asyncio.create_task(self._reload_for_ever())

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def signer(self) -> Signer:
        """The key to sign with now. Raises Refusal `overloaded` when there is none yet."""
        if self._signer is None:
            await self.reload()
        if self._signer is None:
            raise overloaded()
        return self._signer

    async def reload(self) -> list[SigningKey]:
        """Read the keys, newest first; makes the first one ever."""
        async with transaction(self._pool) as conn:
            keys = await published(conn, self._slack_s) or await ensure(conn, self._slack_s)
        self._use(keys)
        return keys

    async def jwks(self) -> list[Jwk]:
        """The published keys as JWKs, at most `RELOAD_S` old."""
        keys = self._keys or await self.reload()
        return [jwk(key.kid, key.public_key) for key in keys]

    def _use(self, keys: list[SigningKey]) -> None:
        self._keys = keys
        signing = next((key for key in keys if key.state == "signing"), None)
        if signing is not None and (self._signer is None or self._signer.kid != signing.kid):
            self._signer = signing.signer()

    async def _reload_for_ever(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_S)
            try:
                await self.reload()
            except UNAVAILABLE:
                pass  # the keys we know go on being good
            except Exception:
                log.exception("keys.reload_failed")


async def published(conn: Connection, slack_s: int) -> list[SigningKey]:
    """Every key that a living token may be signed with, newest first."""
    return _with_states([row async for row in queries.keys(conn, slack_s=slack_s)])


async def ensure(conn: Connection, slack_s: int) -> list[SigningKey]:
    """Make the first key, unless another process has just done so; runs in a transaction."""
    await queries.lock_keys(conn)
    keys = await published(conn, slack_s)
    if not keys:
        await _insert(conn, lead_s=0)
        keys = await published(conn, slack_s)
        log.info("keys.first_made", kid=keys[0].kid)
    return keys


async def rotate(conn: Connection, slack_s: int) -> list[SigningKey]:
    """Publish a new key that signs in `PUBLISH_LEAD_S`; runs in a transaction.

    Returns the published keys, the new one first. Where there is no key yet it signs at once.
    """
    await queries.lock_keys(conn)
    known = await published(conn, slack_s)
    successor = await _insert(conn, lead_s=PUBLISH_LEAD_S if known else 0)
    await queries.retire_keys(conn, successor=successor)
    return await published(conn, slack_s)


async def _insert(conn: Connection, *, lead_s: int) -> str:
    pair = await asyncio.to_thread(new_key_pair)  # requests go on meanwhile
    await queries.insert_key(
        conn, kid=pair.kid, private_key=pair.private, public_key=pair.public, lead_s=lead_s
    )
    return pair.kid


def _with_states(rows: Sequence[asyncpg.Record]) -> list[SigningKey]:
    """`rows` newest first: the newest that has started signs, older ones no longer do."""
    keys = []
    signing = False
    for row in rows:
        state = "next" if not row["started"] else "retired" if signing else "signing"
        signing = signing or state == "signing"
        keys.append(
            SigningKey(
                kid=row["kid"],
                private_der=row["private_key"],
                public_der=row["public_key"],
                created_at=row["created_at"],
                not_before=row["not_before"],
                retired_at=row["retired_at"],
                needed_until=row["needed_until"] if row["retired_at"] else None,
                state=state,
            )
        )
    return keys

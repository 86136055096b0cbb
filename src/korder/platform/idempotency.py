"""`Idempotency-Key` on POSTs that create, kept in the transaction of the creation.

The row is claimed before the work and filled with its answer after it, in one transaction: a crash
leaves neither, and a concurrent twin waits on the unique index and then reads the answer. (The
reserve path has its own, batched: see the reservation domain.)
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from korder.kernel.errors import Code, Refusal
from korder.platform.postgres import Connection

_VISIBLE = re.compile(rb"[\x21-\x7e]{1,255}")
#: The schemas that have an `idempotency` table; a schema's name cannot be a query parameter.
SCHEMAS = frozenset({"users", "events"})


class IdempotencyKey(NamedTuple):
    """A client's key: the first 16 bytes of the SHA-256 of its text."""

    digest: bytes


class Answer(NamedTuple):
    """What was answered. `replayed` is True when it was kept from an earlier request."""

    status: int
    body: bytes
    replayed: bool = False


def parse_key(header: bytes | None) -> IdempotencyKey | None:
    """The key of the header, None without one. Raises as `check_key` does."""
    if header is None:
        return None
    check_key(header)
    return IdempotencyKey(hashlib.sha256(header).digest()[:16])


def check_key(header: bytes) -> None:
    """Raise Refusal `invalid_request` unless it is 1 to 255 visible ASCII characters."""
    if _VISIBLE.fullmatch(header) is None:
        raise Refusal(Code.INVALID_REQUEST, fields=(("Idempotency-Key", "key"),))


def fingerprint_of(*parts: bytes | str | None) -> bytes:
    """16 bytes that tell one request's content from another's; part boundaries count."""
    digest = hashlib.sha256()
    for part in parts:
        raw = b"" if part is None else part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % (len(raw) if part is not None else -1))
        digest.update(raw)
    return digest.digest()[:16]


async def once(
    conn: Connection,
    schema: str,
    scope: str,
    key: IdempotencyKey | None,
    fingerprint: bytes,
    create: Callable[[], Awaitable[Answer]],
) -> Answer:
    """Run `create` unless this key of this scope was answered before; then that answer.

    Must run inside the transaction that creates. Raises Refusal `idempotency_conflict` when the
    key was used with another fingerprint, and whatever `create` raises (then nothing is kept).
    """
    if key is None:
        return await create()
    if schema not in SCHEMAS:
        raise ValueError(f"no idempotency table in {schema!r}")
    claimed = await conn.fetchval(
        f"INSERT INTO {schema}.idempotency (scope, key_digest, fingerprint) VALUES ($1, $2, $3) "  # noqa: S608
        "ON CONFLICT DO NOTHING RETURNING true",
        scope,
        key.digest,
        fingerprint,
    )
    if not claimed:
        return await _replay(conn, schema, scope, key, fingerprint)
    answer = await create()
    await conn.execute(
        f"UPDATE {schema}.idempotency SET status = $3, body = $4 "  # noqa: S608
        "WHERE scope = $1 AND key_digest = $2",
        scope,
        key.digest,
        answer.status,
        answer.body,
    )
    return answer


async def _replay(
    conn: Connection, schema: str, scope: str, key: IdempotencyKey, fingerprint: bytes
) -> Answer:
    row = await conn.fetchrow(
        f"SELECT fingerprint, status, body FROM {schema}.idempotency "  # noqa: S608
        "WHERE scope = $1 AND key_digest = $2",
        scope,
        key.digest,
    )
    if row is None or row["fingerprint"] != fingerprint:
        raise Refusal(Code.IDEMPOTENCY_CONFLICT)
    return Answer(row["status"], row["body"], replayed=True)

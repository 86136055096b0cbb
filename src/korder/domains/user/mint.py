"""Members in bulk, each with a session and an access token, for load tests.

They have no password, so that nobody signs in as them; their tokens end like all others, by
expiry or when their session is revoked.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from korder.domains.user.keys import ensure, published
from korder.domains.user.store import SCHEMA, queries
from korder.domains.user.tokens import Issuer, Signer
from korder.kernel.clock import utc_now
from korder.kernel.ids import new_id
from korder.platform.postgres import Connection

#: Rows of one COPY, and tokens of one `emit`.
BATCH = 1000


class _Minted(NamedTuple):
    member_id: UUID
    session_id: UUID


async def mint(
    conn: Connection,
    issuer: Issuer,
    *,
    count: int,
    ttl_s: int,
    slack_s: int,
    progress: Callable[[int], None],
) -> list[str]:
    """`mint_each` with all tokens in one list; `progress` is told how many members came on."""
    tokens: list[str] = []

    def emit(batch: list[str]) -> None:
        tokens.extend(batch)
        progress(len(batch))

    await mint_each(conn, issuer, count=count, ttl_s=ttl_s, slack_s=slack_s, emit=emit)
    return tokens


async def mint_each(
    conn: Connection,
    issuer: Issuer,
    *,
    count: int,
    ttl_s: int,
    slack_s: int,
    emit: Callable[[list[str]], None],
) -> None:
    """Make `count` members in the caller's transaction; `emit` gets their tokens, batch by batch.

    `slack_s` is how long after its retirement an ordinary key is published; the key that signs
    here is kept until these tokens, which may live longer, have expired.
    """
    now = utc_now()
    until = now.replace(microsecond=0) + timedelta(seconds=ttl_s)
    signer = await _signer(conn, slack_s, until)
    numbers = iter(range(1, count + 1))
    while batch := list(islice(numbers, BATCH)):
        minted = [_Minted(new_id(), new_id()) for _ in batch]
        await _copy(conn, batch, minted, now, until)
        emit([_sign(issuer, signer, one, now, until) for one in minted])


async def _signer(conn: Connection, slack_s: int, until: datetime) -> Signer:
    keys = await published(conn, slack_s) or await ensure(conn, slack_s)
    key = next(key for key in keys if key.state == "signing")
    await queries.need_key_until(conn, kid=key.kid, until=until)
    return key.signer()


async def _copy(
    conn: Connection, numbers: list[int], minted: list[_Minted], now: datetime, until: datetime
) -> None:
    named = zip(numbers, minted, strict=True)
    await conn.copy_records_to_table(
        "members",
        schema_name=SCHEMA,
        columns=["id", "email", "name", "roles", "created_at"],
        records=[
            (
                m.member_id,
                f"minted-{m.member_id.hex}@example.invalid",
                f"Member {n}",
                ["member"],
                now,
            )
            for n, m in named
        ],
    )
    await conn.copy_records_to_table(
        "sessions",
        schema_name=SCHEMA,
        columns=["id", "member_id", "created_at", "expires_at", "access_expires_at"],
        records=[(m.session_id, m.member_id, now, until, until) for m in minted],
    )


def _sign(issuer: Issuer, signer: Signer, minted: _Minted, now: datetime, until: datetime) -> str:
    return issuer.access_token(
        signer,
        member_id=minted.member_id,
        session_id=minted.session_id,
        roles=("member",),
        issued_at=now,
        expires_at=until,
    )

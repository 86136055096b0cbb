"""Points: an append-only ledger per member, and a balance that never goes below zero."""

from typing import NamedTuple
from uuid import UUID

import msgspec

from korder.domains.user.store import SCHEMA, LedgerEntry, queries, to_entry
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import new_id
from korder.platform.idempotency import Answer, IdempotencyKey, fingerprint_of, once
from korder.platform.postgres import Connection, Pool, transaction

#: Most points of one movement either way: a million of them still fit the balance.
DELTA_MAX = 1_000_000_000_000
REASON_MAX = 200


class LedgerPage(NamedTuple):
    """A balance, entries newest first, and the place of the last one (None: the last page)."""

    balance: int
    entries: list[LedgerEntry]
    next_before: int | None


class Points:
    """Use cases of points."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, member_id: UUID, before: int | None, most: int) -> LedgerPage:
        """Balance and movements below `before`, as of one instant.

        Raises Refusal `unauthenticated` when the member, who asks, was deleted.
        """
        async with (
            self._pool.acquire(timeout=5) as conn,
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            balance = await queries.points_of(conn, id=member_id)
            ledger = queries.ledger(conn, member_id=member_id, before=before, most=most + 1)
            rows = [row async for row in ledger]
        if balance is None:
            raise Refusal(Code.UNAUTHENTICATED)
        following = rows[most - 1]["seq"] if len(rows) > most else None
        return LedgerPage(balance, [to_entry(row) for row in rows[:most]], following)

    async def grant(
        self,
        by: UUID,
        member_id: UUID,
        delta: int,
        reason: str,
        key: IdempotencyKey | None,
    ) -> Answer:
        """201 with the ledger entry; a negative `delta` takes points away.

        Raises Refusal `not_found`, `insufficient_points`, `idempotency_conflict`.
        """
        fingerprint = fingerprint_of(str(member_id), str(delta), reason)
        scope = f"member:{by}:POST /v1/users/points"

        async def create() -> Answer:
            return Answer(201, msgspec.json.encode(await move(conn, member_id, delta, reason)))

        async with transaction(self._pool) as conn:
            return await once(conn, SCHEMA, scope, key, fingerprint, create)


async def move(conn: Connection, member_id: UUID, delta: int, reason: str) -> LedgerEntry:
    """Write one movement, in the caller's transaction (which a refusal must end).

    Raises Refusal `not_found` for a member that is gone, `insufficient_points` below zero.
    """
    row = await queries.move_points(
        conn, id=new_id(), member_id=member_id, delta=delta, reason=reason
    )
    if row is not None:
        return to_entry(row)
    known = await queries.points_of(conn, id=member_id)
    raise Refusal(Code.NOT_FOUND if known is None else Code.INSUFFICIENT_POINTS)

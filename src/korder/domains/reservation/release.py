"""Holds that end: cancelled by the member, expired, or cancelled with their event.

Every ending is one short transaction: the reservation rows are locked first, then the inventory
rows in id order, and the outbox rows that tell the gate are written in the same transaction.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from korder.domains.reservation import model
from korder.domains.reservation.batch import queries
from korder.platform.postgres import Connection

#: Most holds ended in one transaction: keeps the inventory row's lock short (about 10 ms).
RELEASE_BATCH = 1000


async def end_holds(conn: Connection, rows: Sequence[Any], status: str) -> int:
    """End these locked holds (rows with id, member_id, ticket_type_id, quantity).

    Must run in the transaction that locked them. Returns how many tickets became free.
    """
    if not rows:
        return 0
    if not model.may_become("held", status):
        raise ValueError(f"held reservations cannot become {status}")
    freed: dict[Any, int] = {}
    for row in rows:
        freed[row["ticket_type_id"]] = freed.get(row["ticket_type_id"], 0) + row["quantity"]
    [_ async for _ in queries.lock_inventory(conn, ticket_types=list(freed))]
    await queries.end_reservations(conn, status=status, ids=[row["id"] for row in rows])
    await queries.move_held(
        conn, ticket_types=list(freed), quantities=[-quantity for quantity in freed.values()]
    )
    await queries.announce_releases(
        conn,
        ticket_types=[row["ticket_type_id"] for row in rows],
        members=[row["member_id"] for row in rows],
        quantities=[row["quantity"] for row in rows],
    )
    return sum(freed.values())


async def expire_due(conn: Connection) -> int:
    """End up to `RELEASE_BATCH` holds past their deadline; returns how many."""
    async with conn.transaction():
        rows = [row async for row in queries.due_holds(conn, most=RELEASE_BATCH)]
        await end_holds(conn, rows, "expired")
    return len(rows)


async def cancel_of_event(conn: Connection, event_id: UUID) -> int:
    """End up to `RELEASE_BATCH` holds of a cancelled event; returns how many."""
    async with conn.transaction():
        rows = [
            row async for row in queries.holds_of_event(conn, event_id=event_id, most=RELEASE_BATCH)
        ]
        await end_holds(conn, rows, "cancelled")
    return len(rows)

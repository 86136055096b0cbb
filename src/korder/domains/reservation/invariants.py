"""What must hold of reservations whatever happened, recomputed from the rows themselves.

`check` reads PostgreSQL alone, by aggregates: a million reservations take seconds. The gate is
compared with it in `gate_invariants`, a promise made to clients in `check_acknowledged`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from korder.domains.reservation.model import TRANSITIONS
from korder.kernel.audit import Finding
from korder.platform.postgres import Connection, load_queries

queries = load_queries(Path(__file__).with_name("invariants.sql"))

#: Beyond the sweep interval: a sweep also waits for the batch in hand and for its own backlog.
SWEEP_GRACE_MS = 2000
EXAMPLES_MAX = 5


class Acknowledged(NamedTuple):
    """One 201 that a client has received."""

    id: UUID
    member_id: UUID
    quantity: int


async def check(
    conn: Connection, *, sweep_interval_ms: int, sweeping: bool = True
) -> list[Finding]:
    """Invariants 1, 2, 3 and 5 in one snapshot of the database.

    `sweeping` False means that no worker runs: holds that came due since are not its fault, so
    deadlines are not judged. `conn` is outside a transaction, or in a REPEATABLE READ one.
    """
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        # Two grouped passes over the big table: let them stay in memory.
        await conn.execute("SET LOCAL work_mem = '128MB'")
        states = [state for state in TRANSITIONS if state != "queued"]
        findings = [
            _finding(
                1,
                "held and sold are the sums of the reservations, within capacity",
                await queries.audited_stock(conn),
            ),
            _finding(2, "no member has more than allowed", await queries.audited_allowances(conn)),
            _finding(3, "one key, one reservation", await queries.audited_keys(conn)),
            _finding(
                5,
                "every reservation is in a state of the model",
                await queries.audited_states(conn, states=states),
            ),
        ]
        if sweeping:
            late_ms = sweep_interval_ms + SWEEP_GRACE_MS
            row = await queries.audited_deadlines(conn, late_ms=late_ms)
            findings.append(_finding(5, "no hold outlives its deadline", row))
    return findings


async def worker_there(conn: Connection) -> bool:
    """Whether a worker has signed in and not left: without one nothing is swept or settled."""
    return bool(await queries.any_worker(conn))


async def check_acknowledged(
    conn: Connection, ticket_type_id: UUID, told: Sequence[Acknowledged]
) -> Finding:
    """Invariant 4 for the 201 answers that a client of one ticket type has collected."""
    rows = queries.acknowledged_missing(
        conn,
        ticket_type_id=ticket_type_id,
        ids=[t.id for t in told],
        members=[t.member_id for t in told],
        quantities=[t.quantity for t in told],
    )
    missing = [f"reservation {row['id']}: {row['found']}" async for row in rows]
    twice = len(told) - len({t.id for t in told})
    if twice:
        missing.append(f"{twice} ids were given to more than one request")
    return Finding(
        4,
        "every acknowledged reservation exists",
        len(told),
        len(missing),
        tuple(missing[:EXAMPLES_MAX]),
    )


class Taken(NamedTuple):
    """Tickets of one ticket type; `by_members` are those of the members asked about."""

    capacity: int
    taken: int
    by_members: int


async def taken(conn: Connection, ticket_type_id: UUID, members: Sequence[UUID]) -> Taken:
    """How the tickets of a type stand. Raises LookupError when it was never on sale."""
    row = await queries.taken_of_type(conn, ticket_type_id=ticket_type_id, members=list(members))
    if row is None:
        raise LookupError(f"ticket type {ticket_type_id} was never on sale")
    return Taken(row["capacity"], row["taken"], row["by_members"])


def _finding(number: int, name: str, row: Any) -> Finding:
    checked, failed, examples = row["checked"], row["failed"], row["examples"]
    return Finding(number, name, checked, failed, tuple(examples))

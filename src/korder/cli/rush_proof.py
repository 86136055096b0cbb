"""The proof of a rush: the audit, and what only the receiver of the answers can check."""

from typing import NamedTuple
from uuid import UUID

import asyncpg

from korder.cli.audit import Audit, audit_servers
from korder.cli.rush_cast import Cast
from korder.cli.target import Target
from korder.domains.reservation import invariants
from korder.kernel.audit import Finding
from korder.rush.figures import expected_tickets
from korder.rush.plan import ERROR, HELD, OVERLOADED, Outcome
from korder.rush.stage import Stage
from korder.settings import Settings


class Wish(NamedTuple):
    """The options of the command."""

    members: int
    tickets: int
    max_per_member: int | None
    quantity: int
    requests_per_member: int
    event: UUID | None
    ticket_type: UUID | None
    base_url: str | None
    patience_s: float


async def prove(
    system: Target, settings: Settings, stage: Stage, people: Cast, outcome: Outcome, wish: Wish
) -> tuple[Audit, list[Finding]]:
    """The audit, and what only the receiver of the answers can check."""
    audit = await audit_servers(system.database_url, system.valkey_url, settings, running=True)
    told = [
        invariants.Acknowledged(a.reservation, people.members[a.buyer % wish.members][0], quantity)
        for quantity in (wish.quantity,)
        for a in outcome.attempts
        if a.kind == HELD and a.reservation is not None
    ]
    conn = await asyncpg.connect(system.database_url, timeout=5, command_timeout=60)
    try:
        exists = await invariants.check_acknowledged(conn, stage.ticket_type_id, told)
        ids = [member for member, _ in people.members]
        taken = await invariants.taken(conn, stage.ticket_type_id, ids)
    finally:
        await conn.close()
    return audit, [exists, *_sold_exactly(stage, outcome, taken, wish)]


def _sold_exactly(
    stage: Stage, outcome: Outcome, taken: invariants.Taken, wish: Wish
) -> list[Finding]:
    """Neither more nor fewer than there were, and nothing held that nobody was told of."""
    told = sum(a.kind == HELD for a in outcome.attempts) * wish.quantity
    # Who got no final answer may hold tickets all the same, until the hold expires.
    unanswered = sum(a.kind in (ERROR, OVERLOADED) for a in outcome.attempts) * wish.quantity
    silent = min(0, taken.by_members - told) or max(0, taken.by_members - told - unanswered)
    findings = [
        Finding(
            4,
            "no member holds tickets without having been told",
            taken.by_members,
            abs(silent),
            (f"held {taken.by_members}, acknowledged {told}",) if silent else (),
        )
    ]
    if stage.ours:
        right = expected_tickets(
            available=stage.available,
            members=wish.members,
            requests_each=wish.requests_per_member,
            quantity=wish.quantity,
            limit=stage.max_per_member,
        )
        text = f"sold {taken.by_members} tickets, right is {right}"
        off = abs(taken.by_members - right)
        name = "exactly as many tickets are held as can be"
        return [*findings, Finding(6, name, right, off, (text,) if off else ())]
    # Others may buy from it too: nobody may have been refused while enough was left.
    left = taken.capacity - taken.taken
    refused = sum(a.kind == "sold_out" for a in outcome.attempts)
    wrong = refused if left >= wish.quantity else 0
    text = f"{refused} were told sold out, {left} tickets are left"
    name = "nobody was told sold out while tickets are left"
    return [*findings, Finding(6, name, refused, wrong, (text,) if wrong else ())]

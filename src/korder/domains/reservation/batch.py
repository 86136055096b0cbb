"""One worker transaction: many requests become reservations, all of them or none.

Locks, in this order: the shard leases (shared), then the inventory rows in id order. The rows of
`reservations` are only inserted, so a batch never waits for a cancellation or an expiry except on
an inventory row, which both sides lock last.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from korder.domains.reservation import model
from korder.domains.reservation.record import HAS_KEY, Request
from korder.kernel.clock import to_micros
from korder.platform.postgres import load_queries

queries = load_queries(Path(__file__).with_name("queries.sql"))


class LeaseLost(Exception):
    """Another worker took one of these shards: nothing was written."""

    def __init__(self, shards: frozenset[int]) -> None:
        super().__init__(f"lease lost for shards {sorted(shards)}")
        self.shards = shards


class _Collision(Exception):
    """Something in the batch exists already: decide again, knowing what."""


class Verdict(NamedTuple):
    """What became of one request. Instants in µs; zero unless held.

    `fingerprint` is set when the key was known: that of the request which used it first.
    """

    code: bytes
    created_us: int = 0
    expires_us: int = 0
    amount: int = 0
    fingerprint: bytes = b""


async def decide_batch(
    conn: "asyncpg.Connection[asyncpg.Record]",
    requests: Sequence[Request],
    fences: Mapping[int, int],
    *,
    redelivered: bool = False,
) -> list[Verdict]:
    """Decide and commit a batch; one verdict per request, in order.

    `fences` are the fencing numbers of the shards that the requests came from. The first try
    trusts that nothing was seen before, which spares a look-up per request; a collision rolls
    back and decides again with the existing rows in hand.

    Raises LeaseLost, and whatever asyncpg raises when PostgreSQL is not there.
    """
    if not redelivered:
        try:
            return await _transaction(conn, requests, fences, careful=False)
        except _Collision:
            pass
    return await _transaction(conn, requests, fences, careful=True)


async def _transaction(
    conn: "asyncpg.Connection[asyncpg.Record]",
    requests: Sequence[Request],
    fences: Mapping[int, int],
    *,
    careful: bool,
) -> list[Verdict]:
    async with conn.transaction():
        await _check_fences(conn, fences)
        types, now = await _lock_types(conn, requests)
        verdicts = await _known(conn, requests) if careful else {}
        new = _unknown(requests, verdicts) if careful else requests
        used = await _used(conn, new, types)
        codes = model.decide(new, types, used, to_micros(now) if now else 0)
        await _write(conn, new, codes, now)
    now_us = to_micros(now) if now else 0
    if not careful:
        return [_verdict(r, code, types, now_us) for r, code in zip(new, codes, strict=True)]
    for request, code in zip(new, codes, strict=True):
        verdicts[request.id] = _verdict(request, code, types, now_us)
    return [verdicts[r.id] for r in requests]


def _unknown(requests: Sequence[Request], verdicts: Mapping[bytes, Verdict]) -> list[Request]:
    """The requests without a verdict, each id once (an API may have submitted it again)."""
    once = {r.id: r for r in requests if r.id not in verdicts}
    return list(once.values())


def _verdict(
    request: Request, code: bytes, types: Mapping[bytes, model.TicketTypeState], now_us: int
) -> Verdict:
    if code != model.HELD:
        return Verdict(code)
    state = types[request.ticket_type]
    return Verdict(code, now_us, now_us + state.hold_us, state.price * request.quantity)


async def _check_fences(
    conn: "asyncpg.Connection[asyncpg.Record]", fences: Mapping[int, int]
) -> None:
    rows = [r async for r in queries.fences(conn, shards=sorted(fences))]
    lost = frozenset(row["shard"] for row in rows if row["fence"] != fences[row["shard"]])
    if lost:
        raise LeaseLost(lost)


async def _lock_types(
    conn: "asyncpg.Connection[asyncpg.Record]", requests: Sequence[Request]
) -> tuple[dict[bytes, model.TicketTypeState], datetime | None]:
    wanted = list({r.ticket_type for r in requests})
    rows = [r async for r in queries.lock_inventory(conn, ticket_types=wanted)]
    types = {
        row["ticket_type_id"]: model.TicketTypeState(
            available=row["available"],
            price=row["price"],
            max_per_member=row["max_per_member"],
            hold_us=row["hold_seconds"] * 1_000_000,
            opens_us=to_micros(row["opens_at"]),
            closes_us=to_micros(row["closes_at"]),
            cancelled=row["cancelled"],
        )
        for row in rows
    }
    # The clock is read as the rows are found: a deadline may be short by the wait for the locks.
    return types, max((row["now"] for row in rows), default=None)


async def _known(
    conn: "asyncpg.Connection[asyncpg.Record]", requests: Sequence[Request]
) -> dict[bytes, Verdict]:
    """Verdicts of requests whose id or key has a row already (or comes twice in this batch)."""
    keyed = [r for r in requests if r.flags & HAS_KEY]
    rows = [
        row
        async for row in queries.known_reservations(
            conn,
            ids=[r.id for r in requests],
            members=[r.member for r in keyed],
            digests=[r.digest for r in keyed],
        )
    ]
    by_id = {row["id"]: row for row in rows}
    by_key = {(row["member_id"], row["idempotency_key"]): row["fingerprint"] for row in rows}
    first: dict[tuple[bytes, bytes], Request] = {}
    seen: set[bytes] = set()
    found: dict[bytes, Verdict] = {}
    for request in requests:
        row = by_id.get(request.id)
        if row is not None:
            found[request.id] = _recorded(row)
            continue
        if request.id in seen or not request.flags & HAS_KEY:
            continue
        seen.add(request.id)
        key = (request.member, request.digest)
        if key in by_key:
            owner = by_key[key]
        elif first.setdefault(key, request) is not request:
            owner = first[key].fingerprint
        else:
            continue
        code = model.KEY_KNOWN if owner == request.fingerprint else model.KEY_CONFLICT
        found[request.id] = Verdict(code, fingerprint=owner)
    return found


def _recorded(row: Any) -> Verdict:
    """The answer that this row was given when it was decided, whatever became of it since."""
    if row["status"] == "rejected":
        return Verdict(model.VERDICT_OF[row["reason"]])
    return Verdict(
        model.HELD,
        to_micros(row["created_at"]),
        to_micros(row["expires_at"]),
        row["amount"],
    )


async def _used(
    conn: "asyncpg.Connection[asyncpg.Record]",
    requests: Sequence[Request],
    types: Mapping[bytes, model.TicketTypeState],
) -> dict[tuple[bytes, bytes], int]:
    limited = {key for key, state in types.items() if state.max_per_member is not None}
    if not limited:
        return {}
    pairs = list({(r.member, r.ticket_type) for r in requests if r.ticket_type in limited})
    rows = queries.live_quantities(
        conn, members=[p[0] for p in pairs], ticket_types=[p[1] for p in pairs]
    )
    return {(r["member_id"], r["ticket_type_id"]): r["quantity"] async for r in rows}


async def _write(
    conn: "asyncpg.Connection[asyncpg.Record]",
    requests: Sequence[Request],
    codes: Sequence[bytes],
    now: datetime | None,
) -> None:
    rows = [
        (r, code) for r, code in zip(requests, codes, strict=True) if code != model.NO_SUCH_TYPE
    ]
    if not rows:
        return
    reasons = model.REASONS
    status = await queries.insert_reservations(
        conn,
        now=now,
        ids=[r.id for r, _ in rows],
        members=[r.member for r, _ in rows],
        ticket_types=[r.ticket_type for r, _ in rows],
        quantities=[r.quantity for r, _ in rows],
        reasons=[None if code == model.HELD else reasons[code].value for _, code in rows],
        digests=[r.digest if r.flags & HAS_KEY else None for r, _ in rows],
        fingerprints=[r.fingerprint if r.flags & HAS_KEY else None for r, _ in rows],
    )
    if status != f"INSERT 0 {len(rows)}":
        raise _Collision
    moved: dict[bytes, int] = {}
    for r, code in rows:
        if code == model.HELD:
            moved[r.ticket_type] = moved.get(r.ticket_type, 0) + r.quantity
    if moved:
        await queries.move_held(conn, ticket_types=list(moved), quantities=list(moved.values()))

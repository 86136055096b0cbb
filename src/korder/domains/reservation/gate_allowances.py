"""Invariant 6 for members: the gate thinks that nobody has more than he has.

An allowance that is too low costs a detour, PostgreSQL refuses. One that is too high keeps a
member from tickets that he may have, until the next rebuild. So every counter of a limited ticket
type is compared; what looks too high is looked at again, with what is still in the stream, until
it is good once or the patience is over.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

from korder.domains.reservation.invariants import EXAMPLES_MAX, queries
from korder.domains.reservation.record import KEYS, REQUEST, SHARDS, Request, ShardKeys
from korder.kernel.audit import Finding
from korder.platform.postgres import Connection
from korder.platform.valkey import Client

#: Counters compared with one query.
SCAN = 2000
LOOK_S = 0.1


async def check_allowances(conn: Connection, client: Client, *, patience_s: float) -> Finding:
    """Compare every allowance at the gate with the rows. `conn` is outside a transaction.

    Raises one of `valkey.UNAVAILABLE` or `postgres.UNAVAILABLE` when one is not there.
    """
    deadline = time.monotonic() + patience_s
    checked, off = 0, []
    for shard in range(SHARDS):
        compared, suspects = await _scan(conn, client, KEYS[shard])
        checked += compared
        off += await _look_again(conn, client, KEYS[shard], suspects, deadline)
    return Finding(
        6,
        "no allowance at the gate is too high",
        checked,
        len(off),
        tuple(off[:EXAMPLES_MAX]),
    )


async def _scan(conn: Connection, client: Client, keys: ShardKeys) -> tuple[int, set[bytes]]:
    """How many counters count, and those that say more than the rows."""
    compared, suspects, cursor = 0, set(), 0
    while True:
        cursor, counters = await client.hscan(keys.allowance, cursor, count=SCAN)
        live = await _live(conn, list(counters))
        compared += len(live)
        suspects |= {holder for holder, count in live.items() if int(counters[holder]) > count}
        if cursor == 0:
            return compared, suspects


async def _look_again(
    conn: Connection, client: Client, keys: ShardKeys, suspects: set[bytes], deadline: float
) -> list[str]:
    """What is said of those that were too high in every look that could be compared."""
    off: dict[bytes, str] = {}
    while suspects:
        before = await _live(conn, list(suspects))
        counts, waiting = await _gate(client, keys, list(before))
        after = await _live(conn, list(before))
        off = {}
        for holder, count in zip(before, counts, strict=True):
            right = before[holder] + waiting[holder]
            if count <= right or count <= after.get(holder, count) + waiting[holder]:
                suspects.discard(holder)
            elif after.get(holder) == before[holder]:
                off[holder] = _told(holder, count, right)
        suspects &= before.keys()
        if not suspects or time.monotonic() >= deadline:
            break
        await asyncio.sleep(LOOK_S)
    return list(off.values())


async def _gate(
    client: Client, keys: ShardKeys, holders: Sequence[bytes]
) -> tuple[list[int], Counter[bytes]]:
    """Counters, and tickets asked for in the stream by holder, of one moment."""
    pipe = client.pipeline(transaction=True)
    pipe.hmget(keys.allowance, holders or [b""])
    pipe.xrange(keys.stream)
    counts, entries = await pipe.execute()
    waiting: Counter[bytes] = Counter()
    for _, fields in entries:
        for raw in REQUEST.iter_unpack(fields[b"b"]):
            request = Request._make(raw)
            waiting[request.member + request.ticket_type] += request.quantity
    return [int(count or 0) for count in counts[: len(holders)]], waiting


async def _live(conn: Connection, holders: Collection[bytes]) -> dict[bytes, int]:
    """What members have, by member and ticket type, of limited types that are on sale."""
    rows = queries.live_of_holders(
        conn,
        members=[UUID(bytes=holder[:16]) for holder in holders],
        ticket_types=[UUID(bytes=holder[16:]) for holder in holders],
    )
    return {
        row["member_id"].bytes + row["ticket_type_id"].bytes: row["quantity"] async for row in rows
    }


def _told(holder: bytes, count: int, right: int) -> str:
    member, ticket_type = UUID(bytes=holder[:16]), UUID(bytes=holder[16:])
    return f"member {member} of ticket type {ticket_type}: gate has {count}, right is {right}"

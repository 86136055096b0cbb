"""Telling the sale side about an event, after the change is committed here.

The change and the telling are two steps in two schemas (or two services). The first leaves
`announced_version` behind and `repair_at` set; whoever comes next, the caller, a retry or
`repair`, tells what is newest. The sale side ignores versions older than it knows, so it does not
matter how often or in which order it hears.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import structlog

from korder.domains.event.views import to_sale
from korder.domains.reservation.contract import ReservationContract
from korder.kernel.errors import Refusal
from korder.platform.postgres import UNAVAILABLE, Pool, load_queries

log = structlog.get_logger(__name__)

queries = load_queries(Path(__file__).with_name("queries.sql"))

#: Most events, and most ticket types, repaired in one round: a round then ends within seconds.
REPAIR_BATCH = 20


class Announcer:
    """Brings the sale side up to date with what is committed here."""

    def __init__(self, pool: Pool, reservations: ReservationContract) -> None:
        self._pool = pool
        self._reservations = reservations

    async def tell(self, event_id: UUID) -> None:
        """Tell the newest version unless it is known; returns when the sale side has it.

        No connection is held while the other side works. Raises what the contract raises; the
        event then stays behind and `repair` goes on.
        """
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.get_event(conn, id=event_id)
        if row is None or row["published_at"] is None:
            return
        if row["announced_version"] >= row["version"]:
            return
        # Also a cancelled event is put first: its version keeps a late, older `put_sale` of
        # another process from opening it again.
        await self._reservations.put_sale(to_sale(row))
        if row["status"] == "cancelled":
            await self._reservations.cancel_sale(event_id)
        async with self._pool.acquire(timeout=5) as conn:
            await queries.mark_announced(conn, id=event_id, version=row["version"])

    async def repair(self) -> int:
        """Tell again what a crash left untold for two seconds; returns how many it mended."""
        async with self._pool.acquire(timeout=5) as conn:
            rows = queries.claim_unannounced(conn, most=REPAIR_BATCH)
            behind = [row["id"] async for row in rows]
        mended = 0
        for event_id in behind:
            mended += await repaired("event", event_id, partial(self.tell, event_id))
        return mended


async def repaired(kind: str, item: UUID, step: Callable[[], Awaitable[object]]) -> bool:
    """Run one step of a repair; whatever is down now is tried again in the next rounds."""
    try:
        await step()
    except (Refusal, *UNAVAILABLE) as error:
        log.warning("event.repair_failed", kind=kind, id=str(item), error=repr(error))
        return False
    log.info("event.repaired", kind=kind, id=str(item))
    return True

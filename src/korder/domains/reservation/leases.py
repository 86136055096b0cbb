"""Leases: a shard has one live writer, and PostgreSQL knows which.

The fencing number grows with each change of hands; every batch proves in its own transaction that
its number is still the newest (`batch.decide_batch`), so a worker that was paused past the end of
its lease writes nothing.
"""

import math
import time

from korder.domains.reservation.batch import queries
from korder.domains.reservation.record import SHARDS
from korder.platform.postgres import Connection


class Leases:
    """The shards that this worker writes, with their fencing numbers.

    Shards are spread evenly: each of n live workers keeps at most ceil(16 / n). A worker that is
    restarted under the name of its dead predecessor takes that one's shards back at once.
    """

    def __init__(self, name: str, lease_ms: int) -> None:
        self.name = name
        self.held: dict[int, int] = {}
        self._lease_s = lease_ms / 1000
        self._due = 0.0

    def due(self) -> bool:
        """Whether it is time for `maintain`: three times in the length of a lease."""
        return time.monotonic() >= self._due

    async def maintain(self, conn: Connection) -> set[int]:
        """Renew, give back what is too much, take what is free; returns the shards just taken."""
        self._due = time.monotonic() + self._lease_s / 3
        await queries.worker_seen(conn, name=self.name)
        alive = await queries.workers_alive(conn, lease_s=self._lease_s)
        quota = math.ceil(SHARDS / max(1, alive))
        rows = queries.renew_leases(
            conn,
            name=self.name,
            lease_s=self._lease_s,
            shards=list(self.held),
            fences=list(self.held.values()),
        )
        renewed = {row["shard"] async for row in rows}
        self.held = {shard: fence for shard, fence in self.held.items() if shard in renewed}
        if len(self.held) > quota:
            await self._give_back(conn, sorted(self.held)[quota:])
        if len(self.held) >= quota:
            return set()
        rows = queries.take_leases(
            conn,
            name=self.name,
            lease_s=self._lease_s,
            mine=list(self.held),
            most=quota - len(self.held),
        )
        taken = {row["shard"]: row["fence"] async for row in rows}
        self.held.update(taken)
        return set(taken)

    def lose(self, shards: frozenset[int]) -> None:
        """Another worker has these now."""
        for shard in shards:
            self.held.pop(shard, None)

    async def give_back_all(self, conn: Connection) -> None:
        """On a clean stop: the next worker need not wait for the leases to run out."""
        await self._give_back(conn, list(self.held))
        await queries.forget_worker(conn, name=self.name)

    async def _give_back(self, conn: Connection, shards: list[int]) -> None:
        await queries.give_back_leases(conn, name=self.name, shards=shards)
        for shard in shards:
            self.held.pop(shard, None)

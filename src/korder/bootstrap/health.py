"""The parts of `/health/ready` by name."""

from korder.domains.reservation.record import KEYS
from korder.platform import valkey
from korder.platform.http.operation import Check
from korder.platform.postgres import Pool

_WORKER = "SELECT count(*) = 16 FROM reservations.shard_leases WHERE expires_at > now()"


def checks(pool: Pool, client: valkey.Client) -> dict[str, Check]:
    """PostgreSQL and Valkey answer, every shard's gate is loaded, every shard has a writer."""

    async def postgres() -> bool:
        async with pool.acquire(timeout=1) as conn:
            return bool(await conn.fetchval("SELECT 1") == 1)

    async def valkey_() -> bool:
        return bool(await client.ping())

    async def gate() -> bool:
        pipe = client.pipeline(transaction=False)
        for keys in KEYS:
            pipe.hexists(keys.meta, "generation")
        return all(await pipe.execute())

    async def worker() -> bool:
        async with pool.acquire(timeout=1) as conn:
            return bool(await conn.fetchval(_WORKER))

    return {"postgres": postgres, "valkey": valkey_, "gate": gate, "worker": worker}

"""PostgreSQL: one bounded pool per domain and process, named SQL from `.sql` files."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiosql
import asyncpg

Connection: TypeAlias = (
    "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
)
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

#: What a caller may treat as "PostgreSQL is not there right now": answer 503 or wait.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a connection says that broke in the middle of an answer
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # too many connections, a full disk, no memory
    asyncpg.QueryCanceledError,
)


async def open_pool(url: str, *, max_size: int, name: str) -> Pool:
    """A pool that opens lazily: a process starts even while PostgreSQL is still recovering.

    Bounds: 5 s to connect, 10 s per statement, so that no request hangs on a dead server.
    """
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=max_size,
        timeout=5,
        command_timeout=10,
        server_settings={"application_name": f"korder-{name}", "timezone": "UTC"},
    )
    return await pool


#: A batch looks up hundreds of keys by index. While a table is young its statistics make the
#: planner prefer a sequential scan, and the cached plan outlives the youth of the table.
_BATCH_PLANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}


async def open_batch_connection(url: str, *, name: str) -> "asyncpg.Connection[asyncpg.Record]":
    """The one connection of a batch writer: UUIDs are raw bytes both ways, plans use indexes."""
    conn = await asyncpg.connect(
        url,
        timeout=5,
        command_timeout=10,
        server_settings={"application_name": f"korder-{name}", "timezone": "UTC", **_BATCH_PLANS},
    )
    await conn.set_type_codec(
        "uuid", schema="pg_catalog", format="binary", encoder=bytes, decoder=bytes
    )
    return conn


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """One connection with one READ COMMITTED transaction; commits on a clean exit."""
    async with pool.acquire(timeout=5) as conn, conn.transaction():
        yield conn


def load_queries(path: Path) -> Any:
    """The named queries of a `.sql` file (aiosql syntax), for asyncpg."""
    return aiosql.from_path(path, "asyncpg", mandatory_parameters=False)

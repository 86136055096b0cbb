"""The same work with its guards taken off, for the negative controls: never used elsewhere."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from korder.domains import reservation
from korder.domains.reservation import model
from korder.platform.valkey import Client, Functions

LUA = Path(reservation.__file__).with_name("lua")

SCRATCH = """
DROP TABLE IF EXISTS reservations.scratch;
CREATE TABLE reservations.scratch (LIKE reservations.inventory INCLUDING DEFAULTS);
"""
READ = "SELECT capacity - held - sold FROM reservations.scratch WHERE ticket_type_id = $1"
CHECK = """
ALTER TABLE reservations.scratch ADD CONSTRAINT never_oversold CHECK (held + sold <= capacity);
"""


async def reserve_one(
    conn: Any, ticket_type: Any, *, lock: bool, read: asyncio.Event, go: asyncio.Event
) -> bool:
    """Read what is left, think, then take one: the race that every naive shop has.

    `read` is set when the stock has been read; the write waits for `go`.
    """
    try:
        async with conn.transaction():
            left = await conn.fetchval(
                READ + (" FOR NO KEY UPDATE" if lock else ""),
                ticket_type,
            )
            read.set()
            await go.wait()
            if left < 1:
                return False
            await conn.execute(
                "UPDATE reservations.scratch SET held = held + 1 WHERE ticket_type_id = $1",
                ticket_type,
            )
    except asyncpg.CheckViolationError:
        return False
    return True


class WithoutFirstAck:
    """The gate's functions with a `settle` that gives back whenever it is called."""

    def __init__(self, client: Client, folder: Path) -> None:
        for path in LUA.glob("*.lua"):
            text = path.read_text().replace("'korder_", "'naive_")
            text = text.replace("server.call('XACK', stream_key, args[1], id) == 1", "true")
            (folder / path.name).write_text(text)
        self._functions = Functions(client, "naive", folder)

    async def call(self, function: str, keys: list[bytes], *args: bytes | int) -> Any:
        return await self._functions.call(function.replace("korder_", "naive_"), keys, *args)


async def check_no_fence(conn: Any, fences: Mapping[int, int]) -> None:
    """In place of `batch._check_fences`: everybody may write."""


def decide_without_limit(
    requests: Sequence[Any], types: Mapping[bytes, Any], used: Any, now_us: int, *, decide: Any
) -> list[bytes]:
    """In place of `model.decide`: no allowance."""
    unlimited = {key: state._replace(max_per_member=None) for key, state in types.items()}
    return decide(requests, unlimited, used, now_us)


def decide_without_stock(
    requests: Sequence[Any], types: Mapping[bytes, Any], used: Any, now_us: int
) -> list[bytes]:
    """In place of `model.decide`: whatever the gate let through is held."""
    return [model.HELD for _ in requests]

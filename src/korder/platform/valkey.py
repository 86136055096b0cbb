"""Valkey: one client per process; Functions from `.lua` files, loaded when they are missing."""

from pathlib import Path
from typing import Any

import redis.asyncio as valkey
from redis.exceptions import (
    BusyLoadingError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as ValkeyConnectionError,
)
from redis.exceptions import (
    TimeoutError as ValkeyTimeoutError,
)

Client = Any  # redis.asyncio.Redis is generic over its decoding; ours never decodes

#: Connections of one client; who finds them all busy waits, since a refusal here would reach a fan.
CONNECTIONS_MAX = 64
WAIT_S = 2.0

#: What a caller may treat as "Valkey is not there right now".
UNAVAILABLE = (OSError, ValkeyConnectionError, ValkeyTimeoutError, BusyLoadingError)


def connect(url: str, *, socket_timeout_s: float | None = 5.0) -> Client:
    """A client for `redis://`, `valkey://` or `unix://` URLs. It answers raw bytes."""
    for scheme in ("valkey+unix://", "valkey://"):
        if url.startswith(scheme):
            url = ("unix://" if "unix" in scheme else "redis://") + url.removeprefix(scheme)
    pool = valkey.BlockingConnectionPool.from_url(
        url,
        socket_timeout=socket_timeout_s,
        socket_connect_timeout=2.0,
        max_connections=CONNECTIONS_MAX,
        timeout=WAIT_S,
    )
    return valkey.Redis.from_pool(pool)


class Functions:
    """A library of Valkey Functions made of one `.lua` file per operation.

    A call to a server that has lost its functions (a restart without data) loads them and is
    tried once more.
    """

    def __init__(self, client: Client, name: str, folder: Path) -> None:
        self._client = client
        bodies = [path.read_text() for path in sorted(folder.glob("*.lua"))]
        self._source = f"#!lua name={name}\n" + "\n".join(bodies)

    async def load(self) -> None:
        """Load or replace the library; idempotent."""
        await self._client.function_load(self._source, replace=True)

    async def call(self, function: str, keys: list[bytes], *args: bytes | int) -> Any:
        """FCALL; raises one of `UNAVAILABLE` when Valkey is not there."""
        try:
            return await self._client.execute_command("FCALL", function, len(keys), *keys, *args)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
        await self.load()
        return await self._client.execute_command("FCALL", function, len(keys), *keys, *args)

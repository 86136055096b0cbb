"""How an API process serves: one event loop, one listening socket inherited from `korder up`."""

import asyncio
import gc
import socket
from typing import Any

import uvicorn

#: How long a stopping API process waits for the requests it has begun.
GRACE_S = 8


def serve(app: Any, fd: int, protocol: type[asyncio.Protocol] | str = "httptools") -> None:
    """Run an ASGI application as every API process does (the benchmarks' ceilings do too).

    `protocol` is uvicorn's own, or one that takes hot routes the short way.
    """
    spare_the_collector()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        interface="asgi3",
        lifespan="on",
        access_log=False,
        log_level="warning",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


def spare_the_collector() -> None:
    """Collect reference cycles a hundred times less often; see docs/adr/0006.

    A rush has tens of thousands of young objects in flight (tasks, futures, waiters) that die by
    reference counting alone; looking through them every 700 allocations costs a fifth of the CPU.
    What was made at import never dies and need not be looked at.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)

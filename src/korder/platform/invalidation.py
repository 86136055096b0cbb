"""What one process changed, told to the caches of all others by Valkey pub/sub.

Delivery is best effort, so every cache also bounds the age of its entries. After a broken
connection nobody knows what was missed: everything is dropped.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable

import structlog

from korder.platform.valkey import UNAVAILABLE, Client

log = structlog.get_logger(__name__)

_CHANNEL = b"korder:changed"
_RETRY_S = 0.5
#: A server that hangs must not make whoever changed something hang too.
_PUBLISH_S = 0.5
#: "Everything of this topic may have changed."
ALL = "*"


class Invalidation:
    """One per process. Callbacks get the key that changed, or `*`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._callbacks: dict[str, list[Callable[[str], None]]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None

    def on(self, topic: str, callback: Callable[[str], None]) -> None:
        """Call back whenever something of this topic changed, here or elsewhere."""
        self._callbacks[topic].append(callback)

    async def publish(self, topic: str, key: str) -> None:
        """Tell this process at once and the others as soon as possible; never raises."""
        self._tell(topic, key)
        with contextlib.suppress(*UNAVAILABLE):  # the bound on the caches' age does the rest
            async with asyncio.timeout(_PUBLISH_S):
                await self._client.publish(_CHANNEL, f"{topic} {key}")

    async def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(_CHANNEL)
                    self._drop_all()
                    while True:
                        message = await pubsub.get_message(
                            ignore_subscribe_messages=True, timeout=1.0
                        )
                        if message is not None:
                            topic, _, key = message["data"].decode().partition(" ")
                            self._tell(topic, key)
            except UNAVAILABLE:
                await asyncio.sleep(_RETRY_S)
            except Exception:
                log.exception("invalidation.listen_failed")
                await asyncio.sleep(_RETRY_S)

    def _drop_all(self) -> None:
        for topic in list(self._callbacks):
            self._tell(topic, ALL)

    def _tell(self, topic: str, key: str) -> None:
        for callback in self._callbacks.get(topic, ()):
            callback(key)

"""One look-up for all who ask at the same time: a crowd costs a few queries, not one each."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Keys in one look-up.
BATCH_MAX = 500


class Coalesced(Generic[K, V]):
    """Looks keys up in batches, one batch in flight; what comes meanwhile joins the next."""

    def __init__(self, look_up: Callable[[list[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._look_up = look_up
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V | None:
        """The value of a key, None without one. Raises what the look-up raised."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._waiting:
                keys = list(self._waiting)[:BATCH_MAX]
                batch = {key: self._waiting.pop(key) for key in keys}
                await self._answer(batch)
        finally:
            self._task = None

    async def _answer(self, batch: dict[K, "asyncio.Future[V | None]"]) -> None:
        try:
            found = await self._look_up(list(batch))
        except Exception as error:
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
            return
        for key, future in batch.items():
            if not future.done():
                future.set_result(found.get(key))

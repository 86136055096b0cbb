"""Periodic work that outlives its failures, and steps of a start that wait for their server."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from korder.platform.postgres import UNAVAILABLE as POSTGRES_UNAVAILABLE
from korder.platform.valkey import UNAVAILABLE as VALKEY_UNAVAILABLE

log = structlog.get_logger(__name__)

UNAVAILABLE = (*POSTGRES_UNAVAILABLE, *VALKEY_UNAVAILABLE)
_RETRY_S = 0.25


class Background:
    """Tasks of one process, all cancelled by `stop`."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, seconds: float, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Do `work` again and again with `seconds` between; a failure is logged and waited out."""
        self._tasks.append(asyncio.create_task(self._repeat(seconds, name, work)))

    async def once_possible(self, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Do `work` now, or, while its server is not there, as soon as it is (in background)."""
        try:
            await work()
        except UNAVAILABLE as error:
            log.warning("background.waiting", work=name, error=repr(error))
            self._tasks.append(asyncio.create_task(self._until_done(name, work)))

    async def stop(self) -> None:
        """Cancel everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, seconds: float, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        while True:
            try:
                await work()
            except UNAVAILABLE as error:
                log.debug("background.part_unavailable", work=name, error=repr(error))
            except Exception:
                log.exception("background.failed", work=name)
            await asyncio.sleep(seconds)

    async def _until_done(self, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await work()
            except UNAVAILABLE:
                continue
            log.info("background.done", work=name)
            return

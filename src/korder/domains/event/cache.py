"""Public events as encoded JSON in process memory: the crowd reads them without the database."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from korder.kernel.errors import Code, Refusal

#: Changes drop an entry at once; this bounds its age where word of one was lost.
FRESH_S = 2.0
#: Descriptions reach 40 KB, so what counts is bytes and not entries.
BYTES_MAX = 16 * 1024 * 1024
#: Ids without a public event, remembered so that a crowd after a wrong link costs one query.
UNKNOWN_MAX = 10_000
ALL = "*"


class PublicEvents:
    """Bodies by event id in canonical text, each read once for all who ask at the same time.

    `load` reads one body, None when there is no such public event. `hits` and `misses` count the
    look-ups.
    """

    def __init__(self, load: Callable[[UUID], Awaitable[bytes | None]]) -> None:
        self._load = load
        self._bodies: dict[str, tuple[float, bytes]] = {}
        self._bytes = 0
        self._unknown: dict[str, float] = {}
        self._loading: dict[str, asyncio.Task[bytes | None]] = {}
        self.hits = 0
        self.misses = 0

    def get(self, event_text: str) -> bytes | None:
        """The body if it is fresh, else None."""
        found = self._bodies.get(event_text)
        if found is None or time.monotonic() - found[0] >= FRESH_S:
            return None
        self.hits += 1
        return found[1]

    async def fetch(self, event_id: UUID) -> bytes:
        """The body, from memory or read now. Raises Refusal `not_found`."""
        text = str(event_id)
        body = self.get(text)
        if body is not None:
            return body
        missed_at = self._unknown.get(text)
        if missed_at is not None and time.monotonic() - missed_at < FRESH_S:
            self.hits += 1
            raise Refusal(Code.NOT_FOUND)
        self.misses += 1
        body = await asyncio.shield(self._read_once(event_id, text))
        if body is None:
            raise Refusal(Code.NOT_FOUND)
        return body

    def drop(self, event_text: str) -> None:
        """Forget an event (`*`: all); a read that is under way will not be kept either."""
        if event_text == ALL:
            self._bodies.clear()
            self._bytes = 0
            self._unknown.clear()
            self._loading.clear()
            return
        self._forget(event_text)
        self._unknown.pop(event_text, None)
        self._loading.pop(event_text, None)

    def _read_once(self, event_id: UUID, text: str) -> "asyncio.Task[bytes | None]":
        task = self._loading.get(text)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._read(event_id, text))
            self._loading[text] = task
        return task

    async def _read(self, event_id: UUID, text: str) -> bytes | None:
        # The age counts from before the query, so that no body is older than it says.
        began = time.monotonic()
        me = asyncio.current_task()
        try:
            body = await self._load(event_id)
            # Whoever was dropped while reading may have read what was true before the change.
            if self._loading.get(text) is me:
                self._keep(text, began, body)
            return body
        finally:
            if self._loading.get(text) is me:
                del self._loading[text]

    def _keep(self, text: str, began: float, body: bytes | None) -> None:
        if body is None:
            while len(self._unknown) >= UNKNOWN_MAX:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[text] = began
            return
        self._unknown.pop(text, None)
        self._forget(text)
        while self._bodies and self._bytes + len(body) > BYTES_MAX:
            self._forget(next(iter(self._bodies)))
        self._bodies[text] = (began, body)
        self._bytes += len(body)

    def _forget(self, text: str) -> None:
        found = self._bodies.pop(text, None)
        if found is not None:
            self._bytes -= len(found[1])

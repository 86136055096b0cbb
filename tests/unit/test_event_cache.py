"""The memory of public events: one read for many, nothing old after a change, bounded."""

import asyncio
from uuid import UUID

import pytest

from korder.domains.event import cache
from korder.domains.event.cache import PublicEvents
from korder.kernel.errors import Refusal
from korder.kernel.ids import new_id


class Source:
    """Bodies to load; `pause` holds every read after it has looked."""

    def __init__(self) -> None:
        self.bodies: dict[UUID, bytes] = {}
        self.reads = 0
        self.pause: asyncio.Event | None = None

    async def load(self, event_id: UUID) -> bytes | None:
        self.reads += 1
        body = self.bodies.get(event_id)
        if self.pause is not None:
            await self.pause.wait()
        return body


async def test_many_who_ask_at_once_cost_one_read():
    source, event = Source(), new_id()
    source.bodies[event] = b"one"
    public = PublicEvents(source.load)
    assert public.get(str(event)) is None
    assert await asyncio.gather(*(public.fetch(event) for _ in range(50))) == [b"one"] * 50
    assert source.reads == 1
    assert public.get(str(event)) == b"one"
    assert (public.hits, public.misses) == (1, 50)


async def test_a_change_is_seen_at_once_even_by_a_read_under_way():
    source, event = Source(), new_id()
    source.bodies[event] = b"old"
    source.pause = asyncio.Event()
    public = PublicEvents(source.load)
    early = asyncio.create_task(public.fetch(event))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.bodies[event] = b"new"
    public.drop(str(event))
    late = asyncio.create_task(public.fetch(event))
    await asyncio.sleep(0)
    source.pause.set()
    assert await early == b"old"  # asked before the change
    assert await late == b"new"
    assert public.get(str(event)) == b"new"


async def test_unknown_events_are_remembered_until_they_may_exist():
    source, event = Source(), new_id()
    public = PublicEvents(source.load)
    for _ in range(3):
        with pytest.raises(Refusal):
            await public.fetch(event)
    assert source.reads == 1
    source.bodies[event] = b"now"
    public.drop("*")
    assert await public.fetch(event) == b"now"


async def test_memory_is_bounded_in_bytes_and_in_unknown_ids(monkeypatch):
    monkeypatch.setattr(cache, "BYTES_MAX", 1000)
    monkeypatch.setattr(cache, "UNKNOWN_MAX", 5)
    source = Source()
    public = PublicEvents(source.load)
    events = [new_id() for _ in range(20)]
    for event in events:
        source.bodies[event] = b"x" * 300
        await public.fetch(event)
        with pytest.raises(Refusal):
            await public.fetch(new_id())
    kept = [event for event in events if public.get(str(event))]
    assert kept == events[-3:]
    assert public._bytes == 900
    assert len(public._unknown) == 5


async def test_age_is_bounded_where_word_of_a_change_was_lost(monkeypatch):
    monkeypatch.setattr(cache, "FRESH_S", 0.02)
    source, event = Source(), new_id()
    source.bodies[event] = b"old"
    public = PublicEvents(source.load)
    await public.fetch(event)
    source.bodies[event] = b"new"
    await asyncio.sleep(0.03)
    assert await public.fetch(event) == b"new"


async def test_a_failed_read_is_not_kept():
    event = new_id()
    answers: list[object] = [OSError("down"), b"up"]

    async def load(_: UUID) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes)
        return answer

    public = PublicEvents(load)
    with pytest.raises(OSError, match="down"):
        await public.fetch(event)
    assert await public.fetch(event) == b"up"

"""One whole system with two API processes per module of crash tests, and people to rush it."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest_asyncio

from korder.cli.rush_cast import cast
from korder.settings import Settings
from tests.crash.crowd import Member
from tests.crash.running import Up, up

MEMBERS = 200


class Hall(NamedTuple):
    """A running system with its people; `watcher` is one more member, who probes."""

    system: Up
    organizer: str
    members: list[Member]
    watcher: Member


@pytest_asyncio.fixture(scope="module")
async def hall() -> AsyncIterator[Hall]:
    async with up("--api-processes", "2") as system:
        organizer, members = await cast(system.database_url, Settings(), MEMBERS + 1)
        yield Hall(system, organizer, members[1:], members[0])

"""The whole system for these tests, with its log at `debug` in a file that must keep secrets."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio

from korder.domains.user.mint import mint
from korder.domains.user.tokens import Issuer
from korder.settings import Settings
from tests.conftest import UP_TIMEOUT_S, Servers, _end_tree, _KillLater, _private_folder
from tests.contract.client import Api, Person

#: Members minted at the start; a test takes as many as it likes.
MEMBERS = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks through the log comes after all that writes into it."""
    ours = [n for n, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    last = "test_logs_keep_secrets.py"
    ordered = sorted((items[n] for n in ours), key=lambda item: item.path.name == last)
    for n, item in zip(ours, ordered, strict=True):
        items[n] = item


@dataclass(frozen=True)
class Logged(Servers):
    """A system whose processes log to a file."""

    log: Path = Path()


@pytest.fixture(scope="package")
def system() -> Iterator[Logged]:
    """`korder up` with two API processes on a free port, stopped with all its children."""
    path = _private_folder()
    env = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "VALKEY_URL")}
    env |= {"KORDER_LOG_LEVEL": "debug", "KORDER_LOG_FORMAT": "json", "KORDER_API_PROCESSES": "2"}
    argv = [sys.executable, "-m", "korder", "up", "--json", "--port", "0", "--data-dir", str(path)]
    with (path / "korder.log").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            argv, env=env, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    # A start that hangs is ended, which ends the read below.
    watchdog = _KillLater(process, UP_TIMEOUT_S)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        watchdog.cancel()
        assert line, f"korder up ended: {(path / 'korder.log').read_text()[-2000:]}"
        told = json.loads(line)
        yield Logged(
            told["database_url"],
            told["valkey_url"],
            told["base_url"],
            path,
            process.pid,
            path / "korder.log",
        )
    finally:
        watchdog.cancel()
        _end_tree(process)
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="package")
def secrets() -> set[str]:
    """Passwords and tokens that were used; see `test_logs_keep_secrets.py`."""
    return set()


@pytest_asyncio.fixture(scope="package")
async def db(system: Logged) -> AsyncIterator[asyncpg.Pool]:
    """The system's own database, to look behind the API."""
    async with asyncpg.create_pool(system.database_url, min_size=1, max_size=2) as pool:
        yield pool


@pytest_asyncio.fixture(scope="package")
async def api(system: Logged, db: asyncpg.Pool, secrets: set[str]) -> AsyncIterator[Api]:
    """The API of the running system."""
    async with httpx.AsyncClient(base_url=system.base_url, timeout=30) as http:
        api = Api(http, db, secrets)
        settings = Settings()
        async with db.acquire() as conn, conn.transaction():
            api.people = await mint(
                conn,
                Issuer(settings.issuer, settings.audience),
                count=MEMBERS,
                ttl_s=3600,
                slack_s=960,
                progress=lambda _count: None,
            )
        yield api


@pytest_asyncio.fixture
async def both(api: Api, system: Logged) -> AsyncIterator[tuple[Api, Api]]:
    """The API twice, on connections to one process and to the other."""
    found: dict[str, Api] = {}
    async with AsyncExitStack() as stack:
        for _ in range(200):
            client = httpx.AsyncClient(
                base_url=system.base_url,
                timeout=30,
                limits=httpx.Limits(max_connections=1, keepalive_expiry=60),
            )
            http = await stack.enter_async_context(client)
            one = Api(http, api.db, api.secrets)
            # Ids that a process makes up begin with a word of its own.
            process = (await one.call("GET", "/health/live")).headers["x-request-id"].split("-")[0]
            found.setdefault(process, one)
            if len(found) == 2:
                break
        first, second = found.values()
        yield first, second


@pytest_asyncio.fixture(scope="package")
async def organizer(api: Api) -> Person:
    """Somebody who may make events."""
    return await api.person("organizer")


@pytest_asyncio.fixture(scope="package")
async def admin(api: Api) -> Person:
    """Somebody who may do everything."""
    return await api.person("admin")


@pytest_asyncio.fixture
async def member(api: Api) -> Person:
    """Somebody new."""
    return await api.person()


@pytest_asyncio.fixture
async def unchanged(api: Api) -> AsyncIterator[None]:
    """Whatever the test does, nothing that is stored may change."""
    before = await api.stored()
    yield
    await asyncio.sleep(0)
    after = await api.stored()
    assert after == before, [name for name in before if after[name] != before[name]]

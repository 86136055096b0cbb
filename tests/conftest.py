"""Real servers for the tests: embedded PostgreSQL and Valkey, started once for the session.

- `servers`: only the two servers, migrated. `pool`, `valkey`: clients of them.
- `clean`: everything emptied before the test.
- `core`: workers, gates and sales in-process; ends with an audit (see `tests.reserving.Core`).
- `worker`, `gate`, `sale`: its factories by name.
- `system`: the whole of `korder up` as a process, for tests over HTTP.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psutil
import pytest
import pytest_asyncio

from korder.cli.runfolder import RunFolder
from korder.cli.system import System
from korder.platform import logs
from korder.platform.postgres import Pool, open_pool
from korder.platform.valkey import Client, connect
from korder.settings import Settings
from tests.reserving import Core

hypothesis.settings.register_profile(
    "ci", max_examples=50, stateful_step_count=30, deadline=None, print_blob=True
)
hypothesis.settings.register_profile(
    "deep", max_examples=500, stateful_step_count=60, deadline=None, print_blob=True
)
hypothesis.settings.load_profile(os.environ.get("KORDER_HYPOTHESIS_PROFILE", "ci"))

#: `korder up` makes a cluster, migrates, starts API and worker.
UP_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Servers:
    """Where the servers are; `base_url` only with a whole system."""

    database_url: str
    valkey_url: str
    base_url: str = ""
    data_dir: Path = Path()
    pid: int = 0


def _private_folder() -> Path:
    """A short path (socket names are limited) that another test run does not touch."""
    return Path(tempfile.mkdtemp(prefix="korder-test-"))


@pytest_asyncio.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """PostgreSQL and Valkey on unix sockets in a folder of their own, schema up to date."""
    logs.configure("console", "error", "tests")
    path = _private_folder()
    try:
        with RunFolder(path) as folder:
            system = System(Settings(data_dir=path), folder)
            try:
                await system.start()
                yield Servers(system.database_url, system.valkey_url, data_dir=path)
            finally:
                await system.stop()
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture(scope="session")
async def shared_pool(servers: Servers) -> AsyncIterator[Pool]:
    pool = await open_pool(servers.database_url, max_size=10, name="tests")
    yield pool
    await pool.close()


@pytest_asyncio.fixture
async def pool(shared_pool: Pool) -> Pool:
    """Connections to PostgreSQL, as the API has them."""
    return shared_pool


@pytest_asyncio.fixture(scope="session")
async def shared_valkey(servers: Servers) -> AsyncIterator[Client]:
    client = connect(servers.valkey_url)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def valkey(shared_valkey: Client) -> Client:
    """A client of Valkey, as the API has it."""
    return shared_valkey


async def empty_everything(pool: Pool, client: Client) -> None:
    """Empty all tables but the sixteen leases, which are freed; empty Valkey.

    Append-only tables are guarded by triggers, which rest meanwhile.
    """
    rows = await pool.fetch(
        "SELECT c.oid::regclass::text AS name, EXISTS (SELECT 1 FROM pg_trigger t"
        " WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS guarded FROM pg_class c"
        " WHERE c.relkind = 'r' AND c.relname <> 'shard_leases'"
        " AND c.relnamespace::regnamespace::text IN ('users', 'events', 'reservations')"
    )
    guarded = [row["name"] for row in rows if row["guarded"]]
    async with pool.acquire() as conn, conn.transaction():
        for name in guarded:
            await conn.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER")
        await conn.execute(f"TRUNCATE {', '.join(row['name'] for row in rows)}")
        for name in guarded:
            await conn.execute(f"ALTER TABLE {name} ENABLE TRIGGER USER")
        await conn.execute(
            "UPDATE reservations.shard_leases SET owner = '', expires_at = '-infinity', fence = 0"
        )
    await client.flushall()


@pytest_asyncio.fixture
async def clean(pool: Pool, valkey: Client) -> None:
    """Nothing exists."""
    await empty_everything(pool, valkey)


@pytest_asyncio.fixture
async def core(servers: Servers, pool: Pool, valkey: Client, clean: None) -> AsyncIterator[Core]:
    """The reservation core; afterwards it must be quiet and every invariant must hold."""
    core = Core(servers.database_url, servers.valkey_url, pool, valkey)
    yield core
    await core.close()


@pytest.fixture
def worker(core: Core):
    """`await worker(name=..., **settings)`: a real worker, running."""
    return core.worker


@pytest.fixture
def gate(core: Core):
    """`await gate(**sizes)`: a real gate, listening."""
    return core.gate


@pytest.fixture
def sale(core: Core):
    """`await sale(500, max_per_member=1, ...)`: an event on sale."""
    return core.sale


@pytest.fixture(scope="session")
def system() -> Iterator[Servers]:
    """`korder up` as a process of its own on a free port, stopped with all its children."""
    path = _private_folder()
    env = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "VALKEY_URL")}
    argv = [sys.executable, "-m", "korder", "up", "--json", "--port", "0", "--data-dir", str(path)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        argv, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    # A start that hangs is ended, which ends the read below.
    watchdog = _KillLater(process, UP_TIMEOUT_S)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        watchdog.cancel()
        assert line, f"korder up ended with status {process.wait()} before it was ready"
        told = json.loads(line)
        yield Servers(told["database_url"], told["valkey_url"], told["base_url"], path, process.pid)
    finally:
        watchdog.cancel()
        _end_tree(process)
        shutil.rmtree(path, ignore_errors=True)


class _KillLater:
    """Ends a process after a while, from a thread, unless cancelled."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        self._timer = threading.Timer(seconds, process.send_signal, [signal.SIGTERM])
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()


def _end_tree(process: "subprocess.Popen[str]") -> None:
    """Ask the supervisor to stop; whatever of its own is left after its patience is killed."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.terminate()
    try:
        process.wait(45)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()

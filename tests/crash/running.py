"""`korder up` as a process that the tests may stop, kill and start again."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from korder.cli import runfolder
from korder.cli.runfolder import Running

START_TIMEOUT_S = 60.0
#: API processes finish what they have begun, then Valkey and PostgreSQL write out.
STOP_TIMEOUT_S = 40.0
POLL_S = 0.05


def environment(**more: str) -> dict[str, str]:
    """Ours, without what would point a system at somebody else's servers or settings."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("KORDER_")}
    return {k: v for k, v in ours.items() if k not in ("DATABASE_URL", "VALKEY_URL")} | more


async def korder(*args: str, timeout_s: float = 60.0, **env: str) -> tuple[int, str, str]:
    """Run a `korder` command to its end: exit status, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "korder", *args),
        env=environment(**env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.terminate()
        await process.wait()
        raise
    return process.returncode or 0, out.decode(), err.decode()


async def eventually(
    holds: Callable[[], Any] | Callable[[], Awaitable[Any]], what: str, timeout_s: float = 10.0
) -> Any:
    """The first true value of `holds()`; fails with `what` when there was none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(POLL_S)


class Up:
    """One `korder up` on one data folder; a restart keeps the port."""

    def __init__(self, data_dir: Path, *flags: str, **env: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_name(data_dir.name + ".log")
        self._answer = data_dir.with_name(data_dir.name + ".json")
        self._flags = flags
        self._env = env
        self._process: asyncio.subprocess.Process | None = None
        #: All processes of ours that were ever seen.
        self.ever: set[psutil.Process] = set()
        self.port = 0
        self.told: dict[str, Any] = {}

    @property
    def base_url(self) -> str:
        return str(self.told["base_url"])

    @property
    def database_url(self) -> str:
        return str(self.told["database_url"])

    @property
    def valkey_url(self) -> str:
        return str(self.told["valkey_url"])

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> "Up":
        """Start it; returns when it says that it is ready."""
        await self.spawn()
        return await self.started()

    async def spawn(self) -> None:
        """Start the process; `started` waits until it is ready."""
        argv = ["up", "--json", "--port", str(self.port), "--data-dir", str(self.data_dir)]
        # Its answer goes to a file, not to a pipe: children that outlive a killed supervisor would
        # keep that open, and asyncio would call the supervisor alive until they are gone.
        with self.log.open("ab") as log, self._answer.open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "korder", *argv, *self._flags),
                env=environment(**self._env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    async def started(self) -> "Up":
        """Wait until it says that it is ready."""

        def has_spoken() -> bool:
            assert self._process is not None
            assert self._process.returncode is None, self.log.read_text()[-2000:]
            return self._answer.read_text().endswith("\n")

        await eventually(has_spoken, "korder up is ready", START_TIMEOUT_S)
        self.told = json.loads(self._answer.read_text())
        self.port = int(self.base_url.rpartition(":")[2])
        self.family()
        return self

    def running(self) -> Running | None:
        """What `run.json` says now."""
        return runfolder.read(self.data_dir)

    def child(self, name: str) -> psutil.Process:
        """A child by its name."""
        running = self.running()
        assert running is not None
        return psutil.Process(running.children[name])

    def family(self) -> set[psutil.Process]:
        """The supervisor and all below it, now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.pid)
            found = {top, *top.children(recursive=True)}
            self.ever |= found
            return found
        return set()

    async def respawned(self, name: str, dead: int, timeout_s: float = 15.0) -> int:
        """The pid of the successor of a dead child."""

        def successor() -> int | None:
            running = self.running()
            pid = running.children.get(name) if running else None
            return pid if pid != dead else None

        return int(await eventually(successor, f"{name} runs again", timeout_s))

    async def ended(self) -> int:
        """Wait for the end of the supervisor; its exit status."""
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; its exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self.family()
            self._process.send_signal(number)
        return await self.ended()

    async def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self._process is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            await self.stop()
        finally:
            for process in self.ever:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()  # psutil compares start times: never a stranger's pid


def alive(family: set[psutil.Process]) -> list[psutil.Process]:
    """Those of a family that still live."""
    found = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@asynccontextmanager
async def up(*flags: str, folder: Path | None = None, **env: str) -> AsyncIterator[Up]:
    """A running `korder up` on a fresh folder (or `folder`, which is kept)."""
    base = Path(tempfile.mkdtemp(prefix="korder-test-")) if folder is None else folder
    system = Up(base / "data", *flags, **env)
    try:
        yield await system.start()
    finally:
        await system.close()
        if folder is None:
            shutil.rmtree(base, ignore_errors=True)

"""The whole system as one object: which children there are, and in which order they go."""

import asyncio
import errno
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from korder.cli.runfolder import RunFolder, Running
from korder.cli.supervisor import Child
from korder.platform import logs, migrate
from korder.platform.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from korder.platform.processes import Command
from korder.settings import Settings

#: Bounds of a start. Recovery of a large write-ahead log or append-only file takes its time.
SERVER_START_S = 120.0
API_START_S = 60.0
_POLL_S = 0.05


class StartError(Exception):
    """The system cannot be started; the message says what to do."""


class System:
    """Servers, migrations and, given a listening socket, API processes and a worker.

    Start order: servers, migrations, worker and API. Stop order: API, worker, Valkey, PostgreSQL,
    so that whoever is stopped still has what it needs to finish its work.
    """

    def __init__(
        self,
        settings: Settings,
        folder: RunFolder,
        listener: socket.socket | None = None,
        *,
        migrations: bool = True,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._listener = listener
        self._migrations = migrations
        self.base_url = None if listener is None else url_of(listener)
        self.ready = False
        self.migrated: list[str] = []
        self.database_url = settings.database_url
        self.valkey_url = settings.valkey_url
        self._children: list[Child] = []  # in start order
        self._log = logs.get()

    async def start(self) -> None:
        """Return when everything answers. Raises StartError; the caller stops what did start."""
        await self._start_servers()
        if self._migrations:
            self.migrated = await self._migrate()
        if self._listener is not None:
            await self._start_processes(self._listener)
        self.ready = True
        self._publish()

    async def stop(self) -> None:
        """Stop all in order, and wait until they are gone."""
        self.ready = False
        if self._listener is not None:
            self._listener.close()
        groups = [("api",), ("worker",), ("valkey",), ("postgres",)]
        for group in groups:
            await asyncio.gather(*(c.stop() for c in self._children if c.name.startswith(group)))

    def running(self) -> Running:
        """What `run.json` says."""
        return Running(
            pid=os.getpid(),
            base_url=self.base_url,
            database_url=self.database_url,
            valkey_url=self.valkey_url,
            ready=self.ready,
            children={c.name: c.pid for c in self._children if c.pid is not None},
        )

    def _publish(self) -> None:
        self._folder.write(self.running())

    async def _start_servers(self) -> None:
        servers: list[EmbeddedServer] = []
        if not self.database_url:
            servers.append(EmbeddedPostgres(self._folder.path))
            self.database_url = servers[-1].url
        if not self.valkey_url:
            servers.append(EmbeddedValkey(self._folder.path))
            self.valkey_url = servers[-1].url
        await asyncio.gather(*(self._start_server(server) for server in servers))

    async def _start_server(self, server: EmbeddedServer) -> None:
        await self._start_child(
            Child(
                server.name,
                server.command,
                prepare=server.prepare,
                wait_ready=server.wait_ready,
                on_change=self._publish,
            ),
            SERVER_START_S,
        )

    async def _migrate(self) -> list[str]:
        try:
            applied = await migrate.migrate(self.database_url)
        except migrate.MigrationError as error:
            raise StartError(str(error)) from error
        except Exception as error:
            raise StartError(
                f"PostgreSQL at DATABASE_URL: {error or type(error).__name__}"
            ) from error
        for title in applied:
            self._log.info("migration_applied", migration=title)
        return applied

    async def _start_processes(self, listener: socket.socket) -> None:
        metrics = fresh_folder(self._folder.path / "metrics")
        env = {
            **self._settings.environment(),
            "KORDER_DATA_DIR": str(self._folder.path),
            "DATABASE_URL": self.database_url,
            "VALKEY_URL": self.valkey_url,
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        }
        fd = listener.fileno()
        api = [f"api-{n}" for n in range(1, api_processes(self._settings) + 1)]
        starts = [self._start_python("worker-1", "serve-worker", env, metrics)]
        starts += [
            self._start_python(name, "serve-api", env, metrics, pass_fds=(fd,)) for name in api
        ]
        await asyncio.gather(*starts)
        try:
            await asyncio.wait_for(until_ready(listener), API_START_S)
        except TimeoutError:
            raise StartError(
                f"the API was not ready within {API_START_S:.0f} s; what it said is above, "
                f"and `curl {self.base_url}/health/ready` names the part that is missing"
            ) from None

    async def _start_python(
        self,
        name: str,
        verb: str,
        env: dict[str, str],
        metrics: Path,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        argv = [sys.executable, "-m", "korder", verb, "--name", name]
        for fd in pass_fds:
            argv += ["--fd", str(fd)]
        command = Command(argv=tuple(argv), env=env, pass_fds=pass_fds)
        child = Child(
            name, lambda: command, on_change=self._publish, on_exit=forget_gauges(metrics)
        )
        await self._start_child(child, API_START_S)

    async def _start_child(self, child: Child, bound_s: float) -> None:
        self._children.append(child)
        try:
            await child.start()
            await asyncio.wait_for(child.ready.wait(), bound_s)
        except TimeoutError:
            raise StartError(f"{child.name} was not ready within {bound_s:.0f} s") from None
        except (OSError, RuntimeError) as error:
            raise StartError(f"{child.name}: {error}") from error


def api_processes(settings: Settings) -> int:
    """How many API processes to run; each is one event loop on one core."""
    return settings.api_processes or max(1, (os.cpu_count() or 1) // 2)


def listen(host: str, port: int, *, patience_s: float = 0.0) -> socket.socket:
    """The listening socket that all API processes share; port 0 picks a free one.

    The supervisor holds it, so that a connection made while an API process is restarted waits
    instead of being refused. A port in use is asked for again for `patience_s`. Raises StartError
    when the address cannot be had.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _listen_now(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                wrong = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
                raise StartError(
                    f"cannot listen on {host}:{port}: {error.strerror}. "
                    f"Choose another one with --{wrong}."
                ) from error
        time.sleep(_POLL_S)


def _listen_now(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(4096)  # a rush connects all at once; the kernel may cap it (somaxconn)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a client on this machine reaches the listener."""
    host, port = reachable(listener)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def reachable(listener: socket.socket) -> tuple[str, int]:
    """Address and port to connect to: loopback when it listens on every address."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - not bound here


async def until_ready(listener: socket.socket) -> None:
    """Return when GET /health/ready answers 200; the caller sets the bound."""
    host, port = reachable(listener)
    while True:
        try:
            if await asyncio.wait_for(_health(host, port), 5.0) == b"200":
                return
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(_POLL_S)


async def _health(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        status = await reader.readline()
        return status.split(b" ", 2)[1] if status.count(b" ") else b""
    finally:
        writer.close()


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`: numbers of dead processes of an earlier run are not wanted."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def forget_gauges(metrics: Path) -> Callable[[int], None]:
    """Drop a dead process's live gauges, as prometheus_client's `mark_process_dead` does."""

    def forget(pid: int) -> None:
        for path in metrics.glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)

    return forget

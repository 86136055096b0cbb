"""The run files in the data folder: who holds it, and where the running system is found."""

import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec


class Running(msgspec.Struct, frozen=True):
    """`run.json`: the running system. URLs may hold passwords, so it is for the owner only.

    `base_url` is None when only the servers run; `ready` is False until the API has answered.
    `children` are process ids by name.
    """

    pid: int
    base_url: str | None
    database_url: str
    valkey_url: str
    ready: bool = False
    children: dict[str, int] = {}


class InUseError(Exception):
    """Somebody else holds the data folder; `running` says who, if that is known yet."""

    def __init__(self, folder: Path, running: Running | None) -> None:
        who = f"process {running.pid}" if running else "another process"
        where = f" and listens on {running.base_url}" if running and running.base_url else ""
        super().__init__(
            f"{folder} is in use: {who} runs on it already{where}. Stop that one first, "
            "or choose another folder with --data-dir."
        )
        self.running = running


class RunFolder:
    """An exclusive hold on a data folder, for the length of a `with`.

    The kernel drops the lock with the process, so a killed holder locks nobody out.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir.expanduser().resolve()
        self._lock = -1
        #: Whether the holder before us was killed: what it started may still be on its way out.
        self.crashed = False

    def __enter__(self) -> "RunFolder":
        """Take the folder; raises InUseError, or OSError when it cannot be written."""
        # A server user must pass through it, see korder.platform.processes.let_traverse.
        self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        self._lock = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise InUseError(self.path, read(self.path)) from None
        self.crashed = (self.path / "run.json").exists()
        (self.path / "run.json").unlink(missing_ok=True)
        return self

    def __exit__(self, *_: Any) -> None:
        (self.path / "run.json").unlink(missing_ok=True)
        os.close(self._lock)

    def write(self, running: Running) -> None:
        """Publish `run.json`; a reader sees the old or the new, never half of one."""
        handle, name = tempfile.mkstemp(dir=self.path, prefix="run.", suffix=".tmp")  # 0600
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(msgspec.to_builtins(running), indent=2).encode())
        Path(name).replace(self.path / "run.json")


def read(data_dir: Path) -> Running | None:
    """The system that runs on `data_dir`; None when there is none (a dead one does not count)."""
    folder = data_dir.expanduser().resolve()
    try:
        running = msgspec.json.decode((folder / "run.json").read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return running if _held(folder) else None


def _held(folder: Path) -> bool:
    try:
        handle = os.open(folder / "up.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)

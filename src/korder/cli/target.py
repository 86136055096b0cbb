"""Find the running system for a command, or start the embedded servers for its length."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from korder.cli import runfolder
from korder.cli.runfolder import InUseError, RunFolder
from korder.cli.system import System, listen
from korder.settings import Settings


class Target(msgspec.Struct, frozen=True):
    """Where to work. `base_url` is None when no API runs; `started` when it runs for us alone."""

    database_url: str
    valkey_url: str
    base_url: str | None = None
    started: bool = False


@asynccontextmanager
async def target(
    settings: Settings, *, api: bool = False, migrations: bool = True
) -> AsyncIterator[Target]:
    """The system to work on; if we start it, its schema is up to date (unless not `migrations`).

    In this order: the servers named by the settings; the system that runs on the data folder;
    embedded servers (with `api` also API and worker, on a free port) that end with the `async
    with`. Raises StartError or InUseError.
    """
    running = runfolder.read(settings.data_dir)
    named = settings.database_url and settings.valkey_url
    same = running is not None and settings.database_url in ("", running.database_url)
    if running is not None and (same or not named):
        yield Target(
            settings.database_url or running.database_url,
            settings.valkey_url or running.valkey_url,
            running.base_url if same else None,
        )
        return
    if named and not api:
        yield Target(settings.database_url, settings.valkey_url)
        return
    with RunFolder(settings.data_dir) as folder:
        listener = listen("127.0.0.1", 0) if api else None
        system = System(settings, folder, listener, migrations=migrations)
        try:
            await system.start()
            yield Target(system.database_url, system.valkey_url, system.base_url, started=True)
        finally:
            await system.stop()


__all__ = ["InUseError", "Target", "target"]

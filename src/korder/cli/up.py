"""`korder up`: the whole system on this machine, until Ctrl-C or SIGTERM."""

import asyncio
import contextlib
import json
import resource
import signal
from typing import Annotated

import msgspec
import typer

from korder.cli.app import fail, with_settings
from korder.cli.checks import sense
from korder.cli.runfolder import InUseError, RunFolder
from korder.cli.system import StartError, System, api_processes, listen
from korder.platform import logs
from korder.settings import Settings

app = typer.Typer(add_completion=False)

#: Open files we want: a rush is one connection each, and every process counts its own.
OPEN_FILES = 65_536
#: API processes of a killed supervisor finish what they have begun, which is bounded by 8 s, and
#: one that is busy may take a moment to let go of the port.
ORPHANS_S = 15.0


@app.command()
@with_settings()
def up(
    settings: Settings,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when ready, nothing else.")
    ] = False,
) -> None:
    """Start everything: PostgreSQL, Valkey, migrations, API and worker. Ctrl-C stops it.

    The servers are embedded ones unless DATABASE_URL and VALKEY_URL are given. Data is kept in the
    data folder and used again next time. A child that dies is started again.
    """
    for rule in sense.unusable(settings):
        if rule.broken:
            fail(f"{rule.found}. {rule.mend}", status=2)
    try:
        logs.configure(settings.log_format, settings.log_level, "up")
        raise_open_files()
        with RunFolder(settings.data_dir) as folder:
            patience_s = ORPHANS_S if folder.crashed else 0.0
            listener = listen(settings.host, settings.port, patience_s=patience_s)
            asyncio.run(_until_stopped(System(settings, folder, listener), settings, as_json))
    except (StartError, InUseError, ValueError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{settings.data_dir}: {error.strerror}. Choose another folder with --data-dir.")


async def _until_stopped(system: System, settings: Settings, as_json: bool) -> None:
    """Run until a signal; whatever was started is stopped on every way out."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if not as_json:
        print("Starting Korder ...", flush=True)
    starting = asyncio.create_task(system.start())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            _announce(system, settings, as_json)
            await stopped
    finally:
        if not as_json:
            print("Stopping ...", flush=True)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, StartError):
            await starting
        await system.stop()
    if not as_json:
        print("Stopped.", flush=True)


def _announce(system: System, settings: Settings, as_json: bool) -> None:
    if as_json:
        print(json.dumps(msgspec.to_builtins(system.running())), flush=True)
        return
    korder, folder = "korder", ""
    if settings.data_dir != Settings().data_dir:
        folder = f" --data-dir {settings.data_dir}"
    print(
        f"""
Korder is ready    {system.base_url}
  documentation    {system.base_url}/docs
  processes        {api_processes(settings)} API, 1 worker
  data             {settings.data_dir.resolve()}

How to go on, in another terminal (.venv/bin/korder):
  {korder} admin create --email you@example.com --password '...'{folder}
  {korder} rush{folder}     1,000 members want 500 tickets in the same second
  {korder} audit{folder}    is anything oversold, undersold or lost?

Ctrl-C stops everything.
""",
        flush=True,
    )


def raise_open_files() -> None:
    """Raise the soft limit of open files; the children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

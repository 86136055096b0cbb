"""`korder serve-worker`: one reservation worker with sweeper and relay."""

from typing import Annotated

import typer

from korder.cli.app import with_settings
from korder.platform import logs
from korder.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
@with_settings()
def serve_worker(
    settings: Settings,
    name: Annotated[str, typer.Option(help="Name of this worker in leases and logs.")],
) -> None:
    """Run one worker; `korder up` does this for you."""
    from korder.bootstrap import run_worker  # noqa: PLC0415 - only this command pays for it

    logs.configure(settings.log_format, settings.log_level, name)
    run_worker(settings, name)

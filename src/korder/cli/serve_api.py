"""`korder serve-api`: one API process on a listening socket inherited from `korder up`."""

from typing import Annotated

import typer

from korder.cli.app import with_settings
from korder.platform import logs
from korder.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
@with_settings()
def serve_api(
    settings: Settings,
    fd: Annotated[int, typer.Option(help="File descriptor of the listening socket.")],
    name: Annotated[str, typer.Option(help="Name in logs.")] = "api",
) -> None:
    """Run one API process; `korder up` does this for you."""
    from korder.bootstrap import run_api  # noqa: PLC0415 - only this command pays for it

    logs.configure(settings.log_format, settings.log_level, name)
    run_api(settings, fd)

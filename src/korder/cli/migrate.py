"""`korder migrate`: bring the database schema up to date."""

import asyncio
import json
from typing import Annotated

import asyncpg
import typer

from korder.cli.app import TARGET_SETTINGS, fail, said, with_settings
from korder.cli.runfolder import InUseError
from korder.cli.system import StartError
from korder.cli.target import target
from korder.platform import logs
from korder.platform import migrate as migrations
from korder.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
@with_settings(TARGET_SETTINGS)
def migrate(
    settings: Settings,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; status 1 when something is pending.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Apply the migrations that are missing. `korder up` does this by itself at every start."""
    logs.configure(settings.log_format, settings.log_level, "migrate")
    try:
        titles = asyncio.run(_run(settings, check=check))
    except (migrations.MigrationError, StartError, InUseError) as error:
        fail(str(error))
    except (OSError, asyncpg.PostgresError) as error:
        fail(f"PostgreSQL: {said(error)}")
    if as_json:
        print(json.dumps({"pending" if check else "applied": titles}))
    elif not titles:
        print("The schema is up to date.")
    else:
        for title in titles:
            print(f"{'pending' if check else 'applied'}  {title}")
    raise typer.Exit(1 if check and titles else 0)


async def _run(settings: Settings, *, check: bool) -> list[str]:
    work = migrations.pending if check else migrations.migrate
    if settings.database_url:
        return await work(settings.database_url)
    async with target(settings, migrations=False) as system:
        return await work(system.database_url)

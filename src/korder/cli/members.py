"""`korder members mint`: members with access tokens, for load tools."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import asyncpg
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from korder.cli.app import TARGET_SETTINGS, fail, said, with_settings
from korder.cli.runfolder import InUseError
from korder.cli.system import StartError
from korder.cli.target import target
from korder.domains.user.keys import RETIRED_SLACK_S
from korder.domains.user.mint import mint_each
from korder.domains.user.tokens import Issuer
from korder.platform import logs
from korder.platform.postgres import open_pool, transaction
from korder.settings import Settings

app = typer.Typer(help="Members.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Members."""


@app.command()
@with_settings((*TARGET_SETTINGS, "access_token_s", "issuer", "audience"))
def mint(
    settings: Settings,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many members.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="File for the tokens (mode 0600).")],
    ttl: Annotated[
        int, typer.Option(min=1, max=2_592_000, help="Life of the tokens, in s.")
    ] = 86_400,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make members without a password, and write one access token per line.

    Whoever has the file can act as these members until the tokens expire: keep it to yourself.
    """
    logs.configure(settings.log_format, settings.log_level, "members")
    if not out.parent.is_dir():
        fail(f"{out.parent} is not a folder", status=2)
    began = time.monotonic()
    try:
        with _fresh_file(out) as file, _bar(show=not as_json) as bar:
            task = bar.add_task("Minting members", total=count)

            def emit(tokens: list[str]) -> None:
                file.writelines(f"{token}\n" for token in tokens)
                bar.advance(task, len(tokens))

            asyncio.run(_run(settings, count, ttl, emit, file.flush))
    except (StartError, InUseError) as error:
        fail(str(error))
    except asyncpg.PostgresError as error:
        fail(f"PostgreSQL: {said(error)}")
    except OSError as error:
        fail(str(error))
    seconds = time.monotonic() - began
    if as_json:
        print(json.dumps({"count": count, "out": str(out), "seconds": round(seconds, 3)}))
    else:
        print(f"{count} members and their tokens are in {out} ({seconds:.1f} s).")


def _bar(*, show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not show)


@contextmanager
def _fresh_file(out: Path) -> Iterator[TextIO]:
    """A file for the owner only, that appears under its name when all has gone well."""
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            yield file
        Path(name).replace(out)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


async def _run(
    settings: Settings,
    count: int,
    ttl_s: int,
    emit: Callable[[list[str]], None],
    flush: Callable[[], None],
) -> None:
    async with target(settings) as system:
        pool = await open_pool(system.database_url, max_size=1, name="cli")
        try:
            async with transaction(pool) as conn:
                await mint_each(
                    conn,
                    Issuer(settings.issuer, settings.audience),
                    count=count,
                    ttl_s=ttl_s,
                    slack_s=settings.access_token_s + RETIRED_SLACK_S,
                    emit=emit,
                )
                flush()  # a full disk must undo the rows
        finally:
            await pool.close()

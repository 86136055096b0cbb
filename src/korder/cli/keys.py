"""`korder keys`: the keys that access tokens are signed with."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import asyncpg
import typer
from rich.console import Console
from rich.table import Table

from korder.cli.app import TARGET_SETTINGS, fail, said, with_settings
from korder.cli.runfolder import InUseError
from korder.cli.system import StartError
from korder.cli.target import target
from korder.domains.user import keys as domain
from korder.domains.user.keys import RETIRED_SLACK_S, SigningKey
from korder.kernel.clock import rfc3339
from korder.platform import logs
from korder.platform.postgres import Connection, open_pool, transaction
from korder.settings import Settings

app = typer.Typer(help="Signing keys.", no_args_is_help=True, add_completion=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _group() -> None:
    """Signing keys."""


@app.command()
@with_settings((*TARGET_SETTINGS, "access_token_s"))
def rotate(settings: Settings, as_json: AsJson = False) -> None:
    """Publish a new key that signs from a few seconds on; nobody is signed out.

    The old key stays published until the last token it has signed has expired.
    """
    keys = _with_keys(settings, domain.rotate)
    new = keys[0]
    if as_json:
        print(json.dumps({"kid": new.kid, "signs_from": rfc3339(new.not_before)}))
        return
    print(f"New key {new.kid} is published and signs from {rfc3339(new.not_before)}.")
    print(f"{len(keys) - 1} older key(s) stay published until their last token has expired.")


@app.command("list")
@with_settings((*TARGET_SETTINGS, "access_token_s"))
def list_keys(settings: Settings, as_json: AsJson = False) -> None:
    """Show the published keys, newest first. Private keys are never shown."""
    keys = _with_keys(settings, domain.published)
    if as_json:
        print(json.dumps({"keys": [_told(key) for key in keys]}))
        return
    table = Table("kid", "state", "signs from (UTC)", "published until (UTC)")
    table.columns[0].overflow = "fold"  # a kid is looked for whole
    for key in keys:
        until = "" if key.needed_until is None else f"{key.needed_until:%Y-%m-%d %H:%M:%S}"
        table.add_row(key.kid, key.state, f"{key.not_before:%Y-%m-%d %H:%M:%S}", until)
    Console().print(table)


def _told(key: SigningKey) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "state": key.state,
        "created_at": rfc3339(key.created_at),
        "signs_from": rfc3339(key.not_before),
        "published_until": None if key.needed_until is None else rfc3339(key.needed_until),
    }


def _with_keys(
    settings: Settings, work: Callable[[Connection, int], Awaitable[list[SigningKey]]]
) -> list[SigningKey]:
    logs.configure(settings.log_format, settings.log_level, "keys")
    try:
        return asyncio.run(_run(settings, work))
    except (StartError, InUseError) as error:
        fail(str(error))
    except (OSError, asyncpg.PostgresError) as error:
        fail(f"PostgreSQL: {said(error)}")
    raise AssertionError("unreachable")


async def _run(
    settings: Settings, work: Callable[[Connection, int], Awaitable[list[SigningKey]]]
) -> list[SigningKey]:
    async with target(settings) as system:
        pool = await open_pool(system.database_url, max_size=1, name="cli")
        try:
            async with transaction(pool) as conn:
                return await work(conn, settings.access_token_s + RETIRED_SLACK_S)
        finally:
            await pool.close()

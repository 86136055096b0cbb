"""`korder doctor`: what is missing or misconfigured, and how to mend it."""

import asyncio
import json
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from korder.cli import runfolder
from korder.cli.app import with_settings
from korder.cli.checks import Check, machine, sense, servers
from korder.settings import Settings

app = typer.Typer(add_completion=False)

COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}
NOTHING_RUNS = (
    "Nothing runs on {folder}, so the embedded servers were not looked at; `korder up` starts them."
)


@app.command()
@with_settings()
def doctor(
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at this machine, the settings and the servers; change nothing.

    Works whether Korder runs or not. Status 1 when there is a problem.
    """
    checks, note = asyncio.run(examine(settings))
    sound = all(check.status != "problem" for check in checks)
    if as_json:
        found = {"ok": sound, "note": note, "checks": msgspec.to_builtins(checks)}
        print(json.dumps(found, ensure_ascii=False))
    else:
        _show(checks, note)
    raise typer.Exit(0 if sound else 1)


async def examine(settings: Settings) -> tuple[list[Check], str]:
    """All checks, and a note on what could not be looked at (empty when there is nothing)."""
    running = runfolder.read(settings.data_dir)
    database_url = settings.database_url or (running.database_url if running else "")
    valkey_url = settings.valkey_url or (running.valkey_url if running else "")
    checks = [*machine.look(settings, running), *sense.look(settings)]
    if database_url:
        checks += [check async for check in servers.look_postgres(database_url, settings)]
    if valkey_url:
        checks += [check async for check in servers.look_valkey(valkey_url)]
    if database_url and valkey_url:
        return checks, ""
    return checks, NOTHING_RUNS.format(folder=settings.data_dir)


def _show(checks: list[Check], note: str) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mend = f"\n{escape(check.mend)}" if check.mend else ""
        colour = COLOURS[check.status]
        table.add_row(f"[{colour}]{check.status}[/]", check.name, escape(check.found) + mend)
    console.print(table)
    if note:
        console.print(note, style="dim")
    problems = sum(check.status == "problem" for check in checks)
    warnings = sum(check.status == "warning" for check in checks)
    if problems or warnings:
        console.print(
            f"{_count(problems, 'problem')}, {_count(warnings, 'warning')}.", style="bold"
        )
    else:
        console.print("All well.", style="bold green")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""`korder rush`: the main job on real HTTP, then the proof that it was done right."""

import asyncio
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from uuid import UUID

import asyncpg
import msgspec
import typer
from rich.console import Console

from korder.cli import rush_view
from korder.cli.app import TARGET_SETTINGS, fail, with_settings
from korder.cli.audit import Audit
from korder.cli.runfolder import InUseError
from korder.cli.rush_cast import Cast, cast
from korder.cli.rush_proof import Wish, prove
from korder.cli.system import StartError
from korder.cli.target import target
from korder.cli.up import raise_open_files
from korder.kernel.audit import Finding
from korder.platform import logs, postgres, valkey
from korder.rush.figures import EXPECTED_REFUSALS, figures
from korder.rush.launch import RushError, launch
from korder.rush.plan import HELD, Attempt, Buyer, Outcome, Plan
from korder.rush.report import Result, page
from korder.rush.stage import Api, Stage, existing_event, make_event
from korder.rush.wire import Address
from korder.settings import Settings

app = typer.Typer(add_completion=False)

#: What else needs open files in the load generator's process.
FILES_RESERVE = 64


@app.command()
@with_settings((*TARGET_SETTINGS, "sweep_interval_ms", "reconcile_interval_ms", "api_processes"))
def rush(
    settings: Settings,
    members: Annotated[int, typer.Option(min=1, max=50_000, help="Members who want tickets.")] = (
        1000
    ),
    tickets: Annotated[int, typer.Option(min=1, help="Tickets of the event that is made.")] = 500,
    max_per_member: Annotated[
        int | None, typer.Option(min=1, help="Most tickets a member may have.", show_default="none")
    ] = None,
    quantity: Annotated[int, typer.Option(min=1, max=100, help="Tickets per request.")] = 1,
    requests_per_member: Annotated[
        int, typer.Option(min=1, max=100, help="Requests of each member, all at once.")
    ] = 1,
    event: Annotated[
        UUID | None, typer.Option(help="An event on sale, instead of a new one.")
    ] = None,
    ticket_type: Annotated[
        UUID | None, typer.Option(help="Its ticket type; the first if not given.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="API to rush, when it is not the one that runs here.")
    ] = None,
    patience_s: Annotated[
        float, typer.Option(min=1, help="Longest wait for a final answer, in s.")
    ] = 60.0,
    report: Annotated[
        Path | None, typer.Option(help="Write the report to this HTML file.", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let every member, each on a connection of its own, reserve at the same moment.

    Uses the system that runs on the data folder, or starts one for its length. Status 0 only when
    every answer was right and the audit is clean.
    """
    # What servers and children say at a start would run through the progress bar.
    if settings.log_level == "info":
        settings = replace(settings, log_level="warning")
    logs.configure(settings.log_format, settings.log_level, "rush")
    wish = Wish(
        members,
        tickets,
        max_per_member,
        quantity,
        requests_per_member,
        event,
        ticket_type,
        base_url,
        patience_s,
    )
    _check_early(base_url, report)
    console = Console(stderr=as_json)
    try:
        result, attempts = asyncio.run(_run(settings, wish, console))
        if report is not None:
            report.write_text(page(result, attempts), encoding="utf-8")
    except (StartError, InUseError, RushError) as error:
        fail(str(error), status=2)
    except (*postgres.UNAVAILABLE, *valkey.UNAVAILABLE, asyncpg.PostgresError) as error:
        fail(f"{error or type(error).__name__}", status=2)
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        rush_view.show(console, result, report)
    raise typer.Exit(0 if result.ok else 1)


def _check_early(base_url: str | None, report: Path | None) -> None:
    """What would else be noticed when the rush is over."""
    if report is not None and not report.resolve().parent.is_dir():
        fail(f"{report.resolve().parent} is not a folder", status=2)
    if base_url is not None:
        try:
            Address.of(base_url)
        except ValueError as error:
            fail(str(error), status=2)


async def _run(settings: Settings, wish: Wish, console: Console) -> tuple[Result, list[Attempt]]:
    raise_open_files()
    rush_view.check_open_files(wish.members * wish.requests_per_member + FILES_RESERVE)
    async with target(settings, api=wish.base_url is None) as system:
        base_url = wish.base_url or system.base_url
        if base_url is None:
            raise RushError("no API runs here; start one with `korder up`, or name it: --base-url")
        with console.status(f"Making {wish.members:,} members and an event at {base_url} ..."):
            people = await cast(system.database_url, settings, wish.members)
            stage = await _stage(base_url, people, wish)
        plan = _plan(base_url, stage, people, wish)
        with rush_view.Bars(console, len(plan.buyers)) as bars:
            outcome = await launch(plan, bars.update)
        with console.status("Auditing ..."):
            audit, promises = await prove(system, settings, stage, people, outcome, wish)
        return _result(base_url, stage, outcome, audit, promises, wish), outcome.attempts


async def _stage(base_url: str, people: Cast, wish: Wish) -> Stage:
    api = Api(base_url, people.organizer_token)
    try:
        if wish.event is not None:
            return await existing_event(api, wish.event, wish.ticket_type)
        return await make_event(
            api,
            tickets=wish.tickets,
            max_per_member=wish.max_per_member,
            title=f"Rush of {wish.members:,}",
        )
    finally:
        api.close()


def _plan(base_url: str, stage: Stage, people: Cast, wish: Wish) -> Plan:
    """Members take turns, so that one member's requests do not go out side by side."""
    buyers = [
        Buyer(member, token, f"rush-{stage.ticket_type_id}-{number}-{turn}")
        for turn in range(wish.requests_per_member)
        for number, (member, token) in enumerate(people.members)
    ]
    return Plan(
        base_url=base_url,
        event_id=stage.event_id,
        ticket_type_id=stage.ticket_type_id,
        quantity=wish.quantity,
        buyers=buyers,
        patience_s=wish.patience_s,
    )


def _result(
    base_url: str,
    stage: Stage,
    outcome: Outcome,
    audit: Audit,
    promises: list[Finding],
    wish: Wish,
) -> Result:
    found = figures(outcome, wish.quantity)
    findings = sorted((*audit.findings, *promises), key=lambda finding: finding.invariant)
    expected = (HELD, *EXPECTED_REFUSALS)
    strange = [answer.kind for answer in found.answers if answer.kind not in expected]
    notes = [f"Answers that should not be: {', '.join(strange)}."] if strange else []
    if not audit.judged_running:
        notes.append("No worker was there when the audit began.")
    return Result(
        ok=all(f.ok for f in findings) and not strange and audit.judged_running,
        command=shlex.join(["korder", *sys.argv[1:]]),
        base_url=base_url,
        members=wish.members,
        stage=stage,
        figures=found,
        findings=findings,
        notes=notes,
    )

"""`korder audit`: proves that nothing is oversold, undersold, lost or stuck."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated

import asyncpg
import msgspec
import typer
from rich.console import Console
from rich.table import Table

from korder.cli import runfolder
from korder.cli.app import TARGET_SETTINGS, fail, with_settings
from korder.cli.runfolder import InUseError
from korder.cli.system import StartError
from korder.cli.target import target
from korder.domains.event import invariants as event
from korder.domains.reservation import gate_invariants
from korder.domains.reservation import invariants as reservation
from korder.domains.user import invariants as user
from korder.kernel.audit import Finding
from korder.platform import logs, postgres, valkey
from korder.settings import Settings

app = typer.Typer(add_completion=False)

#: One query may read millions of rows, so the bound is not that of a request.
STATEMENT_S = 120.0
#: The gate may drift until the next reconcile, which also takes its time.
GATE_SLACK_S = 1.5
NOTHING_RUNS = (
    "No worker runs: deadlines and the gate were not judged "
    "(the next start sweeps the one and rebuilds the other)."
)


class Audit(msgspec.Struct, frozen=True):
    """All findings; `judged_running` is False when no worker runs (see NOTHING_RUNS)."""

    findings: list[Finding]
    judged_running: bool

    @property
    def ok(self) -> bool:
        """True when every invariant holds."""
        return all(finding.ok for finding in self.findings)


@app.command()
@with_settings((*TARGET_SETTINGS, "sweep_interval_ms", "reconcile_interval_ms"))
def audit(
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the invariants: recompute from the rows what must be, and compare.

    Status 0: all hold. 1: one does not. 2: the audit could not be done.
    """
    logs.configure(settings.log_format, settings.log_level, "audit")
    try:
        done = asyncio.run(_audit_target(settings))
    except (StartError, InUseError) as error:
        fail(str(error), status=2)
    except asyncpg.UndefinedTableError:
        fail("the schema is not up to date; run `korder migrate`", status=2)
    except (*postgres.UNAVAILABLE, asyncpg.PostgresError) as error:
        fail(f"PostgreSQL is not reachable: {error or type(error).__name__}", status=2)
    except valkey.UNAVAILABLE as error:
        fail(f"Valkey is not reachable: {error or type(error).__name__}", status=2)
    if as_json:
        print(json.dumps(to_json(done)))
    else:
        show(Console(), done)
    raise typer.Exit(0 if done.ok else 1)


async def run_audit(database_url: str, valkey_url: str, settings: Settings) -> list[Finding]:
    """Every invariant of every domain on a running system.

    Raises one of `postgres.UNAVAILABLE` or `valkey.UNAVAILABLE` when a server is not there.
    """
    return (await audit_servers(database_url, valkey_url, settings, running=True)).findings


async def audit_servers(
    database_url: str, valkey_url: str, settings: Settings, *, running: bool
) -> Audit:
    """As `run_audit`; what only a worker keeps true is judged only if one is there."""
    conn = await asyncpg.connect(
        database_url,
        timeout=5,
        command_timeout=STATEMENT_S,
        server_settings={"application_name": "korder-audit", "timezone": "UTC"},
    )
    client = valkey.connect(valkey_url)
    try:
        working = running and await reservation.worker_there(conn)
        findings = await _check_rows(conn, settings, working=working)
        if working:
            patience_s = settings.reconcile_interval_ms / 1000 + GATE_SLACK_S
            findings += await gate_invariants.check_gate(conn, client, patience_s=patience_s)
        else:
            await client.ping()
    finally:
        await client.aclose()
        await conn.close()
    return Audit(sorted(findings, key=lambda finding: finding.invariant), working)


async def _check_rows(
    conn: "asyncpg.Connection[asyncpg.Record]", settings: Settings, *, working: bool
) -> list[Finding]:
    """All domains in one snapshot."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        findings = await reservation.check(
            conn, sweep_interval_ms=settings.sweep_interval_ms, sweeping=working
        )
        return [*findings, *await user.check(conn), *await event.check(conn)]


async def _audit_target(settings: Settings) -> Audit:
    kept = settings.database_url or (settings.data_dir.expanduser() / "postgres").is_dir()
    if not kept and runfolder.read(settings.data_dir) is None:
        # Servers made for the audit would be empty, and a mistyped folder would pass it.
        raise StartError(
            f"nothing was ever kept in {settings.data_dir}; name the folder with --data-dir"
        )
    async with target(settings) as system:
        return await audit_servers(
            system.database_url, system.valkey_url, settings, running=not system.started
        )


def to_json(done: Audit) -> dict[str, object]:
    """The audit as `--json` prints it."""
    return {
        "ok": done.ok,
        "judged_running": done.judged_running,
        "findings": [
            {**msgspec.to_builtins(finding), "ok": finding.ok} for finding in done.findings
        ],
    }


def show(console: Console, done: Audit) -> None:
    """The audit for a person."""
    console.print(findings_table(done.findings))
    if not done.judged_running:
        console.print(NOTHING_RUNS, style="dim")
    broken = sum(not finding.ok for finding in done.findings)
    if broken:
        console.print(f"{broken} of {len(done.findings)} invariants do not hold.", style="bold red")
    else:
        console.print(f"All {len(done.findings)} invariants hold.", style="bold green")


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row per invariant, examples below the name of a broken one."""
    table = Table(title="Audit", title_justify="left", box=None, pad_edge=False)
    table.add_column("no.", justify="right")
    table.add_column("what must hold")
    table.add_column("checked", justify="right")
    table.add_column("found", justify="right")
    for finding in findings:
        name = "\n".join((finding.name, *(f"  {example}" for example in finding.examples)))
        found = "[green]none[/]" if finding.ok else f"[bold red]{finding.failed:,}[/]"
        table.add_row(str(finding.invariant), name, f"{finding.checked:,}", found)
    return table

"""What `korder rush` shows: progress while it runs, then the tables."""

import resource
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from korder.cli.audit import findings_table
from korder.rush import plan
from korder.rush.figures import Figures, Latency
from korder.rush.launch import RushError
from korder.rush.report import Result


class Bars:
    """Two bars: connections made, answers received."""

    def __init__(self, console: Console, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[held]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._connected = self._progress.add_task("connected", total=total, held="")
        self._answered = self._progress.add_task("answered", total=total, held="", start=False)

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, told: plan.Progress) -> None:
        """Show what the load generator says."""
        self._progress.update(self._connected, completed=told.connected)
        if told.phase == "rushing":
            self._progress.start_task(self._answered)
            self._progress.update(
                self._answered, completed=told.answered, held=f"{told.held:,} held"
            )


def show(console: Console, result: Result, report: Path | None) -> None:
    """Answers, figures, audit, verdict."""
    console.print(_answers(result.figures))
    console.print(_figures(result.figures))
    console.print()
    console.print(findings_table(result.findings))
    for text in (*result.notes, *result.figures.errors):
        console.print(text, style="red", markup=False)
    if report is not None:
        console.print(f"Report: {report.resolve()}", soft_wrap=True)
    if result.ok:
        console.print(
            f"Everything right: {result.figures.tickets_held:,} of {result.stage.available:,} "
            "tickets held, nothing oversold, undersold or lost.",
            style="bold green",
        )
    else:
        console.print("Something is wrong; see above.", style="bold red")


def check_open_files(wanted: int) -> None:
    """Raises RushError when this process may not open that many files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raise RushError(
            f"{wanted:,} connections need as many open files, {soft:,} are allowed; "
            "raise the hard limit (`ulimit -Hn`) or take fewer members"
        )


def _answers(figures: Figures) -> Table:
    table = Table(title="Answers", title_justify="left", box=None, pad_edge=False)
    table.add_column("status", justify="right")
    table.add_column("answer")
    table.add_column("number", justify="right")
    table.add_column("of these after 202", justify="right")
    colours = {plan.HELD: "green", plan.OVERLOADED: "red", plan.ERROR: "red"}
    for answer in figures.answers:
        colour = colours.get(answer.kind, "yellow")
        table.add_row(
            answer.status,
            f"[{colour}]{answer.kind}[/]",
            f"{answer.count:,}",
            f"{answer.after_202:,}" if answer.after_202 else "",
        )
    return table


def _figures(figures: Figures) -> Table:
    table = Table(title="\nFigures", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    table.add_column("", justify="left")
    rows = [
        ("reservations per second", _rate(figures.reservations_per_s)),
        ("answers per second", _rate(figures.answers_per_s)),
        ("time to the final answer", _latency(figures.latency)),
        ("of those held", _latency(figures.latency_held)),
        ("first and last sale", _sales(figures)),
        ("503 answers, tried again", f"{figures.retries_503:,}"),
        ("broken connections", f"{figures.broken_connections:,}"),
        ("connecting took", f"{figures.connect_ms:,.0f} ms"),
    ]
    for name, value in rows:
        table.add_row(name, value)
    table.show_header = False
    return table


def _latency(found: Latency | None) -> str:
    if found is None:
        return "none"
    return (
        f"p50 {found.p50:,.1f}  p90 {found.p90:,.1f}  p99 {found.p99:,.1f}  max {found.max:,.1f} ms"
    )


def _sales(figures: Figures) -> str:
    if figures.first_sale_ms is None or figures.last_sale_ms is None:
        return "none"
    return f"{figures.first_sale_ms:,.1f} and {figures.last_sale_ms:,.1f} ms after the start"


def _rate(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}"

"""The page of one rush: a single file that needs nothing but itself."""

import os
import platform
from pathlib import Path

import jinja2
import msgspec
from markupsafe import Markup

import korder
from korder.kernel.audit import Finding
from korder.rush import charts
from korder.rush.figures import Figures
from korder.rush.plan import ERROR, HELD, OVERLOADED, Attempt
from korder.rush.stage import Stage


class Result(msgspec.Struct, frozen=True):
    """All of one rush: what was asked, what came back, whether it was right."""

    ok: bool
    command: str
    base_url: str
    members: int
    stage: Stage
    figures: Figures
    findings: list[Finding]
    notes: list[str] = []


class Bar(msgspec.Struct, frozen=True):
    """One row of the answers; `share` is a percentage of the requests."""

    name: str
    kind: str
    count: int
    share: float
    after_202: int


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(result: Result, attempts: list[Attempt]) -> str:
    """The report as HTML."""
    figures = result.figures
    final = [a for a in attempts if a.kind not in (ERROR, OVERLOADED)]
    sales = [a.answered_ms for a in final if a.kind == HELD]
    refused = [a.answered_ms for a in final if a.kind != HELD]
    histogram = charts.latency_histogram(sales, refused, figures.latency) if figures.latency else ""
    curve = charts.sales_curve(sales, figures.quantity, result.stage.available)
    return _environment.get_template("report.html.j2").render(
        result=result,
        figures=figures,
        stage=result.stage,
        bars=bars(figures),
        histogram=Markup(histogram),  # noqa: S704 - our own SVG; its texts are escaped
        curve=Markup(curve),  # noqa: S704
        machine=machine(),
        version=korder.__version__,
        clean=all(finding.ok for finding in result.findings),
    )


def bars(figures: Figures) -> list[Bar]:
    """The answers by kind with their shares."""
    kinds = {HELD: "held", OVERLOADED: "bad", ERROR: "bad"}
    return [
        Bar(
            answer.kind.replace("_", " "),
            kinds.get(answer.kind, "refused"),
            answer.count,
            100 * answer.count / max(figures.requests, 1),
            answer.after_202,
        )
        for answer in figures.answers
    ]


def machine() -> str:
    """What it ran on, without naming the host."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from korder.kernel.audit import Finding
from korder.kernel.ids import new_id
from korder.rush.charts import Axis, latency_histogram, sales_curve
from korder.rush.figures import figures, latency
from korder.rush.plan import ERROR, HELD, Attempt, Outcome
from korder.rush.report import Result, page
from korder.rush.stage import Stage


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own


def result(attempts: list[Attempt], *, title: str = "Rush", ok: bool = True) -> Result:
    stage = Stage(new_id(), new_id(), title, 500, 500, 1, True)
    found = figures(Outcome("2026-01-01T00:00:00Z", 0.5, attempts), 1)
    findings = [Finding(1, "sums", 3, 0), Finding(6, "gate", 1, 1, ("type <x>: off",))]
    return Result(ok, "korder rush", "http://127.0.0.1:8000", 1000, stage, found, findings)


def attempts() -> list[Attempt]:
    held = [Attempt(n, HELD, 201, False, 20.0 + n / 7, new_id()) for n in range(500)]
    refused = [Attempt(500 + n, "sold_out", 409, False, 60.0 + n / 9) for n in range(500)]
    return held + refused


@pytest.mark.parametrize("most", [0.3, 1, 7, 99.9, 100, 101, 1234.5, 60_000])
def test_an_axis_holds_its_greatest_value_in_few_even_steps(most):
    axis = Axis.upto(most, 6)
    ticks = axis.ticks()
    assert most <= axis.top < most + 1.001 * axis.step
    assert 2 <= len(ticks) <= 8
    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(axis.top)


def test_counts_have_whole_ticks():
    assert Axis.upto(2, 5, whole=True).step == 1


def test_the_histogram_is_well_formed_and_counts_everybody():
    held, refused = [10.0, 10.5, 30.0], [12.0, 80.0]
    marks = latency([*held, *refused])
    assert marks is not None
    svg = parsed(latency_histogram(held, refused, marks))
    kinds = [rect.get("class") for rect in svg.iter("rect")]
    assert set(kinds) == {"held", "refused"}
    texts = [text.text for text in svg.iter("text")]
    assert {"p50 12", "p90 80", "p99 80"} <= set(texts)
    assert "ms after the start" in texts


def test_a_long_tail_is_cut_off_and_said_so():
    times = [float(n % 50) for n in range(1000)] + [9000.0]
    marks = latency(times)
    assert marks is not None
    assert "1 later, the last after 9,000 ms" in latency_histogram(times, [], marks)


def test_labels_of_marks_do_not_overlap():
    marks = latency([100.0, 100.1, 100.2])
    assert marks is not None
    svg = parsed(latency_histogram([100.0, 100.1, 100.2], [], marks))
    labels = [t for t in svg.iter("text") if (t.text or "").startswith("p")]
    places = [float(t.get("x", "0")) for t in labels]
    assert all(b - a > 50 for a, b in pairwise(places))


def test_the_sales_curve_ends_at_what_was_sold():
    svg = parsed(sales_curve([5.0, 1.0, 9.0], 2, 6))
    assert "6 tickets" in [text.text for text in svg.iter("text")]
    parsed(sales_curve([], 1, 100))


def test_the_page_asks_nobody_for_anything_and_escapes():
    html = page(result(attempts(), title="<script>alert(1)</script>"), attempts())
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "type &lt;x&gt;: off" in html
    assert not re.search(r"(?:src|href|url\()\s*=?", html)
    assert "500" in html
    assert html.count("<svg") == 2


def test_a_page_of_a_rush_without_any_answer():
    nothing = [Attempt(0, ERROR, 0, False, 5.0, error="no final answer <1>")]
    html = page(result(nothing, ok=False), nothing)
    assert "Something is wrong" in html
    assert "no final answer &lt;1&gt;" in html

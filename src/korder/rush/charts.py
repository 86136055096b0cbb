"""Charts as inline SVG, made by hand: axes, ticks and labels, no script and no request.

Colours and fonts are classes of the page (`report.html.j2`), so that both charts follow light and
dark. Coordinates are pixels of a 560 x 280 view box.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from korder.rush.figures import Latency

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 48
BINS_WANTED = 48
#: A tail longer than this times p99 would squeeze everything else: it is cut off and said so.
TAIL = 1.6
#: Rough width of a character of the labels, in pixels.
CHARACTER = 8.4
#: Between two labels side by side.
GAP = 8


class Axis(NamedTuple):
    """A linear scale from 0 to `top`, with a tick every `step`."""

    top: float
    step: float

    @classmethod
    def upto(cls, most: float, ticks: int, *, whole: bool = False) -> "Axis":
        """The smallest scale of 1-2-5 steps that holds `most` in about `ticks` steps."""
        raw = max(most, 1e-9) / ticks
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999999)
        if whole:
            step = max(1.0, step)
        return cls(math.ceil(most / step - 1e-9) * step or step, step)

    def ticks(self) -> list[float]:
        """All tick values, both ends included."""
        return [n * self.step for n in range(round(self.top / self.step) + 1)]


def latency_histogram(held_ms: Sequence[float], refused_ms: Sequence[float], marks: Latency) -> str:
    """Answers per slice of time, holds stacked on refusals, with p50, p90 and p99 marked."""
    cut = marks.max if marks.max <= marks.p99 * TAIL else marks.p99 * TAIL
    x = Axis.upto(cut, 6)
    width_ms = _bin_width(x)
    bins = round(x.top / width_ms)
    held = _histogram(held_ms, width_ms, bins)
    refused = _histogram(refused_ms, width_ms, bins)
    y = Axis.upto(max(map(sum, zip(held, refused, strict=True)), default=1), 4, whole=True)
    bars = []
    for n, (h, r) in enumerate(zip(held, refused, strict=True)):
        bars += _bar(n * width_ms, width_ms, 0, r, x, y, "refused")
        bars += _bar(n * width_ms, width_ms, r, h, x, y, "held")
    beyond = sum(t > x.top for t in (*held_ms, *refused_ms))
    note = f"{beyond:,} later, the last after {_number(marks.max)} ms" if beyond else ""
    return _svg(
        "Distribution of the time to the final answer",
        [
            *_axes(x, y, "ms after the start", f"answers per {_number(width_ms)} ms"),
            *bars,
            *_marks(marks, x),
            _text(WIDTH - RIGHT, HEIGHT - 8, note, "note end"),
        ],
    )


def sales_curve(sales_ms: Sequence[float], quantity: int, available: int) -> str:
    """Tickets sold against time, as the steps they are, and how many there were."""
    ordered = sorted(sales_ms)
    sold = len(ordered) * quantity
    x = Axis.upto(max(ordered[-1] * 1.04 if ordered else 1.0, 1.0), 6)
    y = Axis.upto(max(available if available <= sold * 3 else sold, 1) * 1.02, 5, whole=True)
    points = [f"M{_x(0, x):.1f},{_y(0, y):.1f}"]
    for n, at in enumerate(ordered, start=1):
        points.append(f"H{_x(at, x):.1f}V{_y(n * quantity, y):.1f}")
    line = "".join(points) + f"H{_x(x.top, x):.1f}"
    area = line + f"V{_y(0, y):.1f}H{_x(0, x):.1f}Z"
    parts = [
        *_axes(x, y, "ms after the start", "tickets held"),
        f'<path class="area" d="{area}"/>',
        f'<path class="curve" d="{line}"/>',
    ]
    if available <= y.top:
        at = _y(available, y)
        parts += [
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
            _text(LEFT + 8, at - 7, f"{available:,} tickets", "note halo"),
        ]
    return _svg("Tickets held over time", parts)


def _bin_width(x: Axis) -> float:
    """A part of a tick step, so that the edges of bars meet the ticks."""
    ticks = round(x.top / x.step)
    parts = next((n for n in (10, 5, 4, 2) if n * ticks <= BINS_WANTED * 1.3), 1)
    return x.step / parts


def _histogram(times_ms: Sequence[float], width_ms: float, bins: int) -> list[int]:
    counts = [0] * bins
    for at in times_ms:
        number = min(int(at / width_ms), bins) if at < bins * width_ms else bins
        if number < bins:
            counts[number] += 1
        elif at <= bins * width_ms:  # exactly the right end
            counts[-1] += 1
    return counts


def _bar(at: float, width: float, base: int, count: int, x: Axis, y: Axis, kind: str) -> list[str]:
    if not count:
        return []
    left, right = _x(at, x) + 0.75, _x(at + width, x) - 0.75
    top, bottom = _y(base + count, y), _y(base, y)
    return [
        f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.5):.1f}" '
        f'height="{bottom - top:.1f}"/>'
    ]


def _marks(marks: Latency, x: Axis) -> list[str]:
    """Vertical lines with a label above each."""
    values = {"p50": marks.p50, "p90": marks.p90, "p99": marks.p99}
    labels = [f"{name} {_number(value)}" for name, value in values.items()]
    places = [_x(value, x) for value in values.values()]
    parts = [
        f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>'
        for at in places
    ]
    for at, label in zip(_apart(places, labels), labels, strict=True):
        parts.append(_text(at, TOP - 14, label, "strong middle"))
    return parts


def _apart(places: Sequence[float], labels: Sequence[str]) -> list[float]:
    """Centres of labels near their ascending places that neither overlap nor leave the chart."""
    halves = [len(label) * CHARACTER / 2 for label in labels]
    centers = list(places)
    edge = 0.0
    for n, half in enumerate(halves):
        centers[n] = max(centers[n], edge + half)
        edge = centers[n] + half + GAP
    edge = float(WIDTH)
    for n in reversed(range(len(centers))):
        centers[n] = min(centers[n], edge - halves[n])
        edge = centers[n] - halves[n] - GAP
    return centers


def _axes(x: Axis, y: Axis, x_label: str, y_label: str) -> list[str]:
    parts = []
    for value in y.ticks():
        at = _y(value, y)
        kind = "axis" if value == 0 else "grid"
        parts += [
            f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>',
            _text(LEFT - 8, at + 4, _number(value), "end"),
        ]
    for value in x.ticks():
        at, foot = _x(value, x), HEIGHT - BOTTOM
        parts += [
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{foot}" y2="{foot + 5}"/>',
            _text(at, foot + 19, _number(value), "middle"),
        ]
    parts += [
        _text(LEFT, HEIGHT - 8, x_label, "note"),
        f'<text class="note middle" transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) '
        f'rotate(-90)">{escape(y_label)}</text>',
    ]
    return parts


def _svg(title: str, parts: Sequence[str]) -> str:
    inner = "".join(parts)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{inner}</svg>"
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>' if text else ""


def _x(value: float, axis: Axis) -> float:
    return LEFT + value / axis.top * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return HEIGHT - BOTTOM - value / axis.top * (HEIGHT - BOTTOM - TOP)


def _number(value: float) -> str:
    """`1,200`, `85.4` or `0.25`: three digits say enough."""
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"

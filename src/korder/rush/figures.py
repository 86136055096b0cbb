"""The figures of one rush: pure functions of what the crowd brought back."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec

from korder.rush.plan import ERROR, HELD, OVERLOADED, Attempt, Outcome

#: Refusals that a rush is about; any other one means that something is wrong.
EXPECTED_REFUSALS = ("sold_out", "limit_exceeded")


class Latency(msgspec.Struct, frozen=True):
    """Time from the start signal to the final answer, in ms."""

    p50: float
    p90: float
    p99: float
    max: float


class AnswerCount(msgspec.Struct, frozen=True):
    """How many final answers were of one kind, and how many of those came after a 202."""

    kind: str
    status: str
    count: int
    after_202: int


class Figures(msgspec.Struct, frozen=True):
    """What is printed and reported. Times in ms after the start signal, rates per second.

    `reservations_per_s` is the number of holds over the time of the last one; None without any.
    """

    started_at: str
    requests: int
    quantity: int
    answers: list[AnswerCount]
    held: int
    tickets_held: int
    reservations_per_s: float | None
    answers_per_s: float | None
    latency: Latency | None
    latency_held: Latency | None
    first_sale_ms: float | None
    last_sale_ms: float | None
    retries_503: int
    broken_connections: int
    connect_ms: float
    errors: list[str]


def figures(outcome: Outcome, quantity: int) -> Figures:
    """The figures of an outcome whose buyers wanted `quantity` tickets each."""
    attempts = outcome.attempts
    final = [a for a in attempts if a.kind not in (ERROR, OVERLOADED)]
    held = [a for a in attempts if a.kind == HELD]
    sales = sorted(a.answered_ms for a in held)
    last_ms = max((a.answered_ms for a in final), default=0.0)
    return Figures(
        started_at=outcome.started_at,
        requests=len(attempts),
        quantity=quantity,
        answers=count_answers(attempts),
        held=len(held),
        tickets_held=len(held) * quantity,
        reservations_per_s=_rate(len(held), sales[-1] if sales else 0.0),
        answers_per_s=_rate(len(final), last_ms),
        latency=latency([a.answered_ms for a in final]),
        latency_held=latency(sales),
        first_sale_ms=sales[0] if sales else None,
        last_sale_ms=sales[-1] if sales else None,
        retries_503=sum(a.retries for a in attempts),
        broken_connections=sum(a.broken for a in attempts),
        connect_ms=round(outcome.connect_s * 1000, 1),
        errors=[text for text, _ in Counter(a.error for a in attempts if a.error).most_common(5)],
    )


def count_answers(attempts: Sequence[Attempt]) -> list[AnswerCount]:
    """Counts by kind: holds first, then refusals by number, then what should not be."""
    kinds = Counter(a.kind for a in attempts)
    late = Counter(a.kind for a in attempts if a.queued)
    bad = (OVERLOADED, ERROR)

    def place(kind: str) -> tuple[bool, bool, int, str]:
        return kind in bad, kind != HELD, -kinds[kind], kind

    return [
        AnswerCount(kind, _status_of(kind, attempts), kinds[kind], late[kind])
        for kind in sorted(kinds, key=place)
    ]


def _status_of(kind: str, attempts: Sequence[Attempt]) -> str:
    """The HTTP status of the answers that were final at once; the contract's one for a hold."""
    if kind == OVERLOADED:
        return "503"
    seen = {a.status for a in attempts if a.kind == kind and a.status and not a.queued}
    return "/".join(str(status) for status in sorted(seen)) or "202"


def latency(times_ms: Sequence[float]) -> Latency | None:
    """Percentiles by nearest rank; None of nothing."""
    if not times_ms:
        return None
    ordered = sorted(times_ms)
    return Latency(
        percentile(ordered, 50), percentile(ordered, 90), percentile(ordered, 99), ordered[-1]
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank of an ascending, non-empty sequence: an answer that somebody really had."""
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


def expected_tickets(
    *, available: int, members: int, requests_each: int, quantity: int, limit: int | None
) -> int:
    """How many tickets this crowd must end up with when nobody else buys.

    All or none of a request: the last `available % quantity` tickets stay.
    """
    each = requests_each if limit is None else min(requests_each, limit // quantity)
    return min(available // quantity * quantity, members * each * quantity)


def _rate(count: int, over_ms: float) -> float | None:
    return round(count / over_ms * 1000, 1) if over_ms > 0 else None

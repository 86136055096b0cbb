import pytest

from korder.kernel.ids import new_id
from korder.rush.figures import expected_tickets, figures, latency, percentile
from korder.rush.plan import ERROR, HELD, OVERLOADED, Attempt, Outcome


def outcome(*attempts: Attempt) -> Outcome:
    return Outcome("2026-01-01T00:00:00Z", 0.5, list(attempts))


def test_percentiles_are_answers_that_somebody_had():
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile(ordered, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0
    assert latency([]) is None


def test_figures_of_a_mixed_rush():
    found = figures(
        outcome(
            Attempt(0, HELD, 201, False, 10.0, new_id()),
            Attempt(1, HELD, 200, True, 500.0, new_id(), retries=2),
            Attempt(2, "sold_out", 409, False, 700.0),
            Attempt(3, OVERLOADED, 0, False, 60_000.0, retries=50),
            Attempt(4, ERROR, 0, False, 60_000.0, broken=3, error="no final answer"),
        ),
        quantity=2,
    )
    assert (found.held, found.tickets_held, found.requests) == (2, 4, 5)
    assert (found.first_sale_ms, found.last_sale_ms) == (10.0, 500.0)
    assert found.reservations_per_s == 4.0
    # Those without an answer are counted, and not mixed into the times of those with one.
    assert found.latency is not None
    assert found.latency.max == 700.0
    assert [(a.kind, a.count, a.after_202) for a in found.answers] == [
        (HELD, 2, 1),
        ("sold_out", 1, 0),
        (ERROR, 1, 0),
        (OVERLOADED, 1, 0),
    ]
    assert (found.retries_503, found.broken_connections) == (52, 3)
    assert found.errors == ["no final answer"]


def test_a_rush_in_which_nobody_got_anything():
    found = figures(outcome(Attempt(0, ERROR, 0, False, 5.0)), quantity=1)
    assert found.latency is None
    assert found.reservations_per_s is None
    assert found.first_sale_ms is None


@pytest.mark.parametrize(
    ("available", "members", "each", "quantity", "limit", "right"),
    [
        (500, 1000, 1, 1, None, 500),
        (500, 1000, 2, 1, 1, 500),
        (5000, 1000, 2, 1, 1, 1000),
        (5000, 1000, 2, 1, None, 2000),
        (1000, 300, 1, 7, 10, 994),
        (1000, 300, 5, 4, 3, 0),
    ],
)
def test_how_many_tickets_must_be_sold(available, members, each, quantity, limit, right):
    found = expected_tickets(
        available=available, members=members, requests_each=each, quantity=quantity, limit=limit
    )
    assert found == right

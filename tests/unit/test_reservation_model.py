"""The decisions as values: nothing here touches a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from korder.domains.reservation import model
from korder.domains.reservation.model import TicketTypeState, decide
from korder.domains.reservation.record import Request
from korder.kernel.errors import Code
from tests.core import request_of

A, B = b"A" * 16, b"B" * 16
ANN, BOB = b"a" * 16, b"b" * 16
NOW = 1_800_000_000_000_000


def state(available: int = 10, limit: int | None = None, **changes: int | bool) -> TicketTypeState:
    fields = {
        "available": available,
        "price": 100,
        "max_per_member": limit,
        "hold_us": 300_000_000,
        "opens_us": NOW - 1,
        "closes_us": NOW + 1,
        "cancelled": False,
    }
    return TicketTypeState(**{**fields, **changes})  # type: ignore[arg-type]


def test_first_come_first_served_and_all_or_none_of_a_request():
    asked = [3, 4, 2, 1]  # of 5: 3 fit, 4 do not, 2 fit, nothing is left
    requests = [request_of(A, quantity=quantity) for quantity in asked]
    verdicts = decide(requests, {A: state(5)}, {}, NOW)
    assert verdicts == [model.HELD, model.SOLD_OUT, model.HELD, model.SOLD_OUT]


def test_the_last_ticket_is_sold():
    assert decide([request_of(A)], {A: state(1)}, {}, NOW) == [model.HELD]
    assert decide([request_of(A)], {A: state(0)}, {}, NOW) == [model.SOLD_OUT]


def test_two_requests_of_one_batch_count_each_other():
    requests = [request_of(A, ANN, 2), request_of(A, ANN, 1), request_of(A, BOB, 2)]
    used: dict[tuple[bytes, bytes], int] = {}
    verdicts = decide(requests, {A: state(10, limit=2)}, used, NOW)
    assert verdicts == [model.HELD, model.OVER_LIMIT, model.HELD]
    assert used == {(ANN, A): 2, (BOB, A): 2}


def test_what_a_member_has_already_counts():
    verdicts = decide([request_of(A, ANN, 2)], {A: state(10, limit=3)}, {(ANN, A): 2}, NOW)
    assert verdicts == [model.OVER_LIMIT]


def test_a_refused_request_uses_no_allowance():
    requests = [request_of(A, ANN, 3), request_of(A, ANN, 2)]
    verdicts = decide(requests, {A: state(2, limit=3)}, {}, NOW)
    assert verdicts == [model.SOLD_OUT, model.HELD]


def test_over_the_limit_is_said_before_sold_out():
    verdicts = decide([request_of(A, ANN, 2)], {A: state(0, limit=1)}, {}, NOW)
    assert verdicts == [model.OVER_LIMIT]


def test_allowances_and_stock_of_two_ticket_types_are_apart():
    requests = [request_of(A, ANN), request_of(B, ANN), request_of(A, ANN)]
    types = {A: state(5, limit=1), B: state(1)}
    assert decide(requests, types, {}, NOW) == [model.HELD, model.HELD, model.OVER_LIMIT]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"opens_us": NOW}, model.HELD),
        ({"opens_us": NOW + model.OPENING_SKEW_US}, model.HELD),  # the API's clock was ahead
        ({"opens_us": NOW + model.OPENING_SKEW_US + 1}, model.NOT_OPEN),
        ({"closes_us": NOW + 1}, model.HELD),
        ({"closes_us": NOW}, model.CLOSED),  # closing has no skew
        ({"cancelled": True}, model.CLOSED),
    ],
)
def test_the_sale_window(changes: dict[str, int | bool], verdict: bytes):
    assert decide([request_of(A)], {A: state(**changes)}, {}, NOW) == [verdict]


def test_a_ticket_type_that_is_not_on_sale():
    assert decide([request_of(B)], {A: state()}, {}, NOW) == [model.NO_SUCH_TYPE]


@given(
    available=st.integers(0, 8),
    limit=st.none() | st.integers(1, 4),
    asked=st.lists(st.tuples(st.sampled_from([ANN, BOB]), st.integers(1, 5)), max_size=12),
)
def test_whatever_is_asked(available: int, limit: int | None, asked: list[tuple[bytes, int]]):
    requests = [request_of(A, member, quantity) for member, quantity in asked]
    verdicts = decide(requests, {A: state(available, limit)}, {}, NOW)
    given_out = _given(requests, verdicts)
    assert sum(given_out.values()) <= available
    assert limit is None or all(count <= limit for count in given_out.values())
    # Nobody is refused without reason: what was refused does not fit in what is left at the end.
    left = available - sum(given_out.values())
    for request, verdict in zip(requests, verdicts, strict=True):
        if verdict == model.SOLD_OUT:
            assert request.quantity > left
        if verdict == model.OVER_LIMIT:
            assert limit is not None
            assert given_out.get(request.member, 0) + request.quantity > limit


def _given(requests: list[Request], verdicts: list[bytes]) -> dict[bytes, int]:
    given_out: dict[bytes, int] = {}
    for request, verdict in zip(requests, verdicts, strict=True):
        if verdict == model.HELD:
            given_out[request.member] = given_out.get(request.member, 0) + request.quantity
    return given_out


ALLOWED = {
    ("queued", "held"),
    ("queued", "rejected"),
    ("held", "confirmed"),
    ("held", "cancelled"),
    ("held", "expired"),
    ("confirmed", "refunded"),
}


@pytest.mark.parametrize("status", list(model.TRANSITIONS))
@pytest.mark.parametrize("target", list(model.TRANSITIONS))
def test_transitions_are_those_of_the_contract_and_nothing_else(status: str, target: str):
    assert model.may_become(status, target) == ((status, target) in ALLOWED)


def test_an_unknown_state_raises():
    with pytest.raises(KeyError):
        model.may_become("paid", "held")


def test_every_refusal_has_a_code_and_every_code_one_mark():
    assert len(set(model.REASONS.values())) == len(model.REASONS)
    assert all(len(mark) == 1 for mark in model.REASONS)
    assert model.VERDICT_OF[Code.SOLD_OUT.value] == model.SOLD_OUT
    assert model.HELD not in model.REASONS

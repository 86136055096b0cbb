"""Refusal codes are the contract's, word by word."""

from korder.kernel.audit import Finding
from korder.kernel.errors import Code, Refusal, overloaded

CONTRACT = {
    "invalid_request",
    "unauthenticated",
    "not_found",
    "email_taken",
    "sold_out",
    "limit_exceeded",
    "sale_not_open",
    "sale_closed",
    "invalid_state",
    "reservation_expired",
    "insufficient_points",
    "capacity_below_committed",
    "already_checked_in",
    "idempotency_conflict",
    "queue_pass_required",
    "queue_pass_invalid",
    "rate_limited",
    "overloaded",
    "forbidden",
}


def test_every_code_of_the_contract_exists():
    assert {code.value for code in Code} >= CONTRACT


def test_a_refusal_carries_its_code():
    refusal = Refusal(Code.SOLD_OUT)
    assert (refusal.code, str(refusal), refusal.retry_after_s) == (Code.SOLD_OUT, "sold_out", None)


def test_overloaded_says_when_to_come_back():
    assert overloaded().retry_after_s == 1


def test_a_finding_is_ok_without_failures():
    assert Finding(1, "counts", 10, 0).ok
    assert not Finding(1, "counts", 10, 1, ("x",)).ok

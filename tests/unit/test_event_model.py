"""Decisions about events: windows, states, what a patch may change."""

import re
import typing
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from korder.domains.event import model
from korder.domains.event.currency import Currency
from korder.domains.event.model import Changes, Details, NumberChanges, Numbers
from korder.kernel.errors import Code, Refusal

NOW = datetime(2026, 11, 24, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)


def details(**given) -> Details:
    values = {
        "title": "Spring concert",
        "description": "",
        "venue": "Hall 1",
        "starts_at": NOW + 24 * HOUR,
        "sale_opens_at": None,
        "sale_closes_at": None,
        "currency": "KRW",
        "hold_seconds": 300,
    }
    return Details(**{**values, **given})


def refused(code: Code, *fields: tuple[str, str]):
    class _Check:
        def __enter__(self):
            self.raises = pytest.raises(Refusal)
            self.info = self.raises.__enter__()
            return self.info

        def __exit__(self, *error):
            handled = self.raises.__exit__(*error)
            assert self.info.value.code is code
            assert self.info.value.fields == fields
            return handled

    return _Check()


def test_transitions_are_exactly_those_of_the_contract():
    states = ["draft", "published", "cancelled"]
    allowed = {(a, b) for a in states for b in states if model.may_become(a, b)}
    assert allowed == {
        ("draft", "published"),
        ("draft", "cancelled"),
        ("published", "cancelled"),
    }
    with pytest.raises(KeyError):
        model.may_become("sold", "draft")


def test_a_draft_keeps_its_open_windows_and_is_in_utc():
    seoul = timezone(timedelta(hours=9))
    drafted = model.drafted(details(starts_at=(NOW + 24 * HOUR).astimezone(seoul)), NOW)
    assert drafted.starts_at == NOW + 24 * HOUR
    assert drafted.starts_at.tzinfo is UTC
    assert drafted.sale_opens_at is None
    assert drafted.closes_at == drafted.starts_at


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"starts_at": NOW - HOUR}, ("starts_at", "in_the_past")),
        ({"sale_closes_at": NOW}, ("sale_closes_at", "in_the_past")),
        ({"sale_opens_at": NOW + 24 * HOUR}, ("sale_opens_at", "order")),
        (
            {"sale_opens_at": NOW + 2 * HOUR, "sale_closes_at": NOW + 2 * HOUR},
            ("sale_closes_at", "order"),
        ),
        ({"starts_at": datetime(2026, 12, 1)}, ("starts_at", "time")),
        ({"starts_at": datetime(1, 1, 1, tzinfo=timezone(14 * HOUR))}, ("starts_at", "range")),
        (
            {"sale_closes_at": datetime(9999, 12, 31, 23, tzinfo=timezone(-10 * HOUR))},
            ("sale_closes_at", "range"),
        ),
    ],
)
def test_a_sale_that_makes_no_sense_is_no_draft(given, problem):
    with refused(Code.INVALID_REQUEST, problem):
        model.drafted(details(**given), NOW)


def test_a_sale_may_go_on_after_the_start_and_one_instant_is_enough():
    model.drafted(details(starts_at=NOW - HOUR, sale_closes_at=NOW + HOUR), NOW)
    just = timedelta(microseconds=1)
    model.drafted(details(sale_opens_at=NOW + HOUR, sale_closes_at=NOW + HOUR + just), NOW)


def test_publishing_opens_now_unless_a_time_was_given():
    assert model.published(details(), NOW).sale_opens_at == NOW
    later = NOW + HOUR
    assert model.published(details(sale_opens_at=later), NOW).sale_opens_at == later
    with refused(Code.INVALID_REQUEST, ("starts_at", "in_the_past")):
        model.published(details(), NOW + 24 * HOUR)


def test_a_patch_changes_what_it_names_and_nothing_else():
    before = details(description="old")
    after = model.changed("draft", before, Changes(title="New", currency="USD"), NOW)
    assert after == msgspec.structs.replace(before, title="New", currency="USD")
    assert model.changed("draft", before, Changes(), NOW) == before


def test_a_published_event_keeps_its_currency_and_its_opening():
    before = details(sale_opens_at=NOW - HOUR)
    with refused(Code.INVALID_STATE):
        model.changed("published", before, Changes(currency="USD"), NOW)
    assert model.changed("published", before, Changes(currency="KRW"), NOW) == before
    after = model.changed("published", before, Changes(sale_opens_at=None), NOW)
    assert after.sale_opens_at == NOW


def test_a_running_sale_can_be_closed_at_once_but_not_before_it_opened():
    before = details(sale_opens_at=NOW - 2 * HOUR)
    after = model.changed("published", before, Changes(sale_closes_at=NOW - HOUR), NOW)
    assert after.closes_at == NOW - HOUR
    with refused(Code.INVALID_REQUEST, ("sale_closes_at", "order")):
        model.changed("published", before, Changes(sale_closes_at=NOW - 3 * HOUR), NOW)


def test_the_start_moves_the_closing_that_follows_it():
    before = details(sale_opens_at=NOW)
    after = model.changed("published", before, Changes(starts_at=NOW + 48 * HOUR), NOW)
    assert after.closes_at == NOW + 48 * HOUR


def test_a_cancelled_event_changes_no_more():
    with refused(Code.INVALID_STATE):
        model.changed("cancelled", details(), Changes(title="Again"), NOW)


def test_numbers_merge_and_a_limit_can_be_taken_away():
    before = Numbers(1000, 10, 2)
    assert model.merged(before, NumberChanges(capacity=0)) == Numbers(1000, 0, 2)
    assert model.merged(before, NumberChanges(max_per_member=None)) == Numbers(1000, 10, None)


def test_currencies_are_distinct_codes_of_three_letters():
    codes = typing.get_args(Currency)
    assert len(codes) == len(set(codes)) > 140
    assert all(re.fullmatch("[A-Z]{3}", code) for code in codes)
    assert {"KRW", "USD", "EUR", "JPY"} <= set(codes)

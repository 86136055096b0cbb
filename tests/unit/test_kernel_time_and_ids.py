"""Clock and ids: exact, sortable, in the contract's words."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from korder.kernel.clock import from_micros, rfc3339, to_micros, utc_now
from korder.kernel.ids import id_text, new_id, new_id_bytes

INSTANTS = st.datetimes(
    min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)
)


@given(INSTANTS)
def test_microseconds_are_exact_both_ways(at: datetime):
    assert from_micros(to_micros(at)) == at


@given(INSTANTS)
def test_rfc3339_is_read_back_as_the_same_instant(at: datetime):
    text = rfc3339(at)
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == at


def test_rfc3339_is_utc_whatever_the_zone():
    seoul = timezone(timedelta(hours=9))
    at = datetime(2026, 11, 24, 14, 0, tzinfo=seoul)
    assert rfc3339(at) == "2026-11-24T05:00:00.000000Z"


def test_now_is_aware():
    assert utc_now().utcoffset() == timedelta(0)


def test_ids_are_uuid7_and_sort_by_time():
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
    assert all(isinstance(i, UUID) and i.version == 7 for i in ids)


def test_the_text_of_raw_bytes_is_canonical():
    raw = new_id_bytes()
    assert id_text(raw) == str(UUID(bytes=raw))

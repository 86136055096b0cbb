"""Decisions about events as pure functions of values, `now` included. Nothing here awaits.

States: `draft -> published | cancelled`; `published -> cancelled`. Nothing else.

What may be changed when: a draft, everything; a published event, everything but its currency
(reservations carry amounts in it); a cancelled one, nothing. Closing a running sale at once, by
moving `sale_closes_at` into the past, is allowed; publishing a sale that is over is not.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from korder.domains.event.currency import Currency
from korder.kernel.errors import Code, Refusal

Status = Literal["draft", "published", "cancelled"]

TRANSITIONS: Final[Mapping[str, frozenset[str]]] = {
    "draft": frozenset({"published", "cancelled"}),
    "published": frozenset({"cancelled"}),
    "cancelled": frozenset(),
}

TITLE_MAX = VENUE_MAX = NAME_MAX = 200
DESCRIPTION_MAX = 10_000
REASON_MAX = 500
HOLD_SECONDS_MIN, HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX = 5, 300, 3600
TICKET_TYPES_MAX = 50
PRICE_MAX = 10**12
CAPACITY_MAX = 10_000_000
#: A reservation asks for at most 100 tickets; an allowance above it would promise nothing more.
ALLOWANCE_MAX = 100
CURRENCY_DEFAULT: Final[Currency] = "KRW"
#: Instants outside of this are slips of the pen, and some cannot be moved to UTC at all.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


class Numbers(msgspec.Struct, frozen=True):
    """What one ticket type sells: price in the minor unit, allowance None for no limit."""

    price: int
    capacity: int
    max_per_member: int | None = None


class NewTicketType(Numbers, frozen=True, kw_only=True):
    """A ticket type to create."""

    name: str


class Details(msgspec.Struct, frozen=True):
    """All of an event that its organizer writes; `None` windows stand for their defaults."""

    title: str
    description: str
    venue: str
    starts_at: datetime
    sale_opens_at: datetime | None
    sale_closes_at: datetime | None
    currency: Currency
    hold_seconds: int

    @property
    def closes_at(self) -> datetime:
        """When the sale closes: `sale_closes_at`, or else when the event starts."""
        return self.sale_closes_at or self.starts_at


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A patch of `Details`: UNSET leaves a field as it is, None puts a window to its default."""

    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    venue: str | UnsetType = UNSET
    starts_at: datetime | UnsetType = UNSET
    sale_opens_at: datetime | UnsetType | None = UNSET
    sale_closes_at: datetime | UnsetType | None = UNSET
    currency: Currency | UnsetType = UNSET
    hold_seconds: int | UnsetType = UNSET


class NumberChanges(msgspec.Struct, frozen=True, kw_only=True):
    """A patch of `Numbers`: UNSET leaves a field as it is."""

    price: int | UnsetType = UNSET
    capacity: int | UnsetType = UNSET
    max_per_member: int | UnsetType | None = UNSET


S = TypeVar("S", bound=msgspec.Struct)


def merged(before: S, changes: msgspec.Struct) -> S:
    """`before` with every field of `changes` that is set."""
    given = {
        name: value
        for name in changes.__struct_fields__
        if (value := getattr(changes, name)) is not UNSET
    }
    return msgspec.structs.replace(before, **given)


def may_become(status: str, target: str) -> bool:
    """Whether the transition exists. An unknown status raises KeyError."""
    return target in TRANSITIONS[status]


def drafted(details: Details, now: datetime) -> Details:
    """A new event's details with its times in UTC.

    Raises Refusal `invalid_request` for windows in the wrong order, and for a sale that would be
    over before it began.
    """
    details = _in_utc(details)
    _check_window(details)
    if details.closes_at <= now:
        raise _invalid((_closing_field(details), "in_the_past"))
    return details


def published(details: Details, now: datetime) -> Details:
    """The details with which a draft goes on sale: without an opening time it opens now.

    Raises Refusal `invalid_request` when the sale would be over already.
    """
    if details.closes_at <= now:
        raise _invalid((_closing_field(details), "in_the_past"))
    return msgspec.structs.replace(details, sale_opens_at=details.sale_opens_at or now)


def changed(status: Status, before: Details, changes: Changes, now: datetime) -> Details:
    """The details after a patch.

    Raises Refusal `invalid_state` for a cancelled event or another currency of a published one,
    `invalid_request` for windows in the wrong order.
    """
    if status == "cancelled":
        raise Refusal(Code.INVALID_STATE)
    after = _in_utc(merged(before, changes))
    if status == "published":
        if after.currency != before.currency:
            raise Refusal(Code.INVALID_STATE)
        if after.sale_opens_at is None:
            after = msgspec.structs.replace(after, sale_opens_at=now)
    _check_window(after)
    return after


def _in_utc(details: Details) -> Details:
    """The same instants in UTC; refuses those that no event can mean."""
    names = ("starts_at", "sale_opens_at", "sale_closes_at")
    given = {name: at for name in names if (at := getattr(details, name)) is not None}
    if naive := [(name, "time") for name, at in given.items() if at.utcoffset() is None]:
        raise _invalid(*naive)
    wild = [(name, "range") for name, at in given.items() if not EARLIEST <= at <= LATEST]
    if wild:
        raise _invalid(*wild)
    moved = {name: at.astimezone(UTC) for name, at in given.items()}
    return msgspec.structs.replace(details, **moved)


def _check_window(details: Details) -> None:
    if details.sale_opens_at is not None and details.sale_opens_at >= details.closes_at:
        name = "sale_opens_at" if details.sale_closes_at is None else "sale_closes_at"
        raise _invalid((name, "order"))


def _closing_field(details: Details) -> str:
    return "starts_at" if details.sale_closes_at is None else "sale_closes_at"


def _invalid(*fields: tuple[str, str]) -> Refusal:
    return Refusal(Code.INVALID_REQUEST, fields=fields)

"""Events as the contract shows them, and how rows become them."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from korder.domains.event.model import Details, Numbers, Status
from korder.domains.reservation.contract import Sale, TicketTypeSale


class TicketType(msgspec.Struct, frozen=True):
    """`price` is in the minor unit of the event's currency; `max_per_member` null: no limit."""

    id: UUID
    name: str
    price: int
    capacity: int
    max_per_member: int | None


class Event(msgspec.Struct, frozen=True):
    """An event with its ticket types.

    A draft whose `sale_opens_at` is null opens when it is published; one whose `sale_closes_at` is
    null closes when the event starts. Both are told as instants from then on.
    """

    id: UUID
    organizer_id: UUID
    title: str
    description: str
    venue: str
    starts_at: datetime
    sale_opens_at: datetime | None
    sale_closes_at: datetime | None
    currency: str
    hold_seconds: int
    status: Status
    ticket_types: list[TicketType]
    created_at: datetime
    published_at: datetime | None
    cancelled_at: datetime | None
    cancel_reason: str | None


_types = msgspec.json.Decoder(list[TicketType])


def to_event(row: Any) -> Event:
    """A row of `events.events` with `ticket_types` as JSON text."""
    closes_at = row["sale_closes_at"]
    if closes_at is None and row["published_at"] is not None:
        closes_at = row["starts_at"]
    return Event(
        id=row["id"],
        organizer_id=row["organizer_id"],
        title=row["title"],
        description=row["description"],
        venue=row["venue"],
        starts_at=row["starts_at"],
        sale_opens_at=row["sale_opens_at"],
        sale_closes_at=closes_at,
        currency=row["currency"],
        hold_seconds=row["hold_seconds"],
        status=row["status"],
        ticket_types=_types.decode(row["ticket_types"]),
        created_at=row["created_at"],
        published_at=row["published_at"],
        cancelled_at=row["cancelled_at"],
        cancel_reason=row["cancel_reason"],
    )


def to_details(row: Any) -> Details:
    """What the organizer wrote, from a row of `events.events`."""
    return Details(**{name: row[name] for name in Details.__struct_fields__})


def to_ticket_type(row: Any) -> TicketType:
    """A row of `events.ticket_types`."""
    return TicketType(**{name: row[name] for name in TicketType.__struct_fields__})


def to_numbers(row: Any) -> Numbers:
    """What a ticket type sells, from a row of `events.ticket_types`."""
    return Numbers(**{name: row[name] for name in Numbers.__struct_fields__})


def to_sale(row: Any) -> Sale:
    """A published or cancelled event's row as the sale side needs to know it.

    A cancelled one closes at its cancellation, so that not even a sale that was never announced
    before can sell anything.
    """
    closes_at = row["sale_closes_at"] or row["starts_at"]
    if row["cancelled_at"] is not None:
        closes_at = min(closes_at, row["cancelled_at"])
    return Sale(
        event_id=row["id"],
        organizer_id=row["organizer_id"],
        version=row["version"],
        currency=row["currency"],
        hold_seconds=row["hold_seconds"],
        opens_at=row["sale_opens_at"],
        closes_at=closes_at,
        ticket_types=tuple(
            TicketTypeSale(
                id=t.id, price=t.price, capacity=t.capacity, max_per_member=t.max_per_member
            )
            for t in _types.decode(row["ticket_types"])
        ),
    )


def is_public(row: Any) -> bool:
    """Whether everybody may see it: it was published once, whatever became of it."""
    return row["published_at"] is not None

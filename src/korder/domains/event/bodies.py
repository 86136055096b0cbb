"""Request bodies of the event routes, with every bound that a schema can say."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from korder.domains.event import model
from korder.domains.event.currency import Currency
from korder.domains.event.model import Changes, Details, NewTicketType, NumberChanges
from korder.platform.http.common import Body, no_nul

#: Something to see: a name of spaces names nothing. Spelled out, because regular expressions of
#: clients and servers disagree about what `\s` is.
_VISIBLE = r"[^\s\x00-\x1f\x85\ufeff]"
Title = Annotated[str, Meta(min_length=1, max_length=model.TITLE_MAX, pattern=_VISIBLE)]
Venue = Annotated[str, Meta(min_length=1, max_length=model.VENUE_MAX, pattern=_VISIBLE)]
Name = Annotated[str, Meta(min_length=1, max_length=model.NAME_MAX, pattern=_VISIBLE)]
Reason = Annotated[str, Meta(min_length=1, max_length=model.REASON_MAX, pattern=_VISIBLE)]
Description = Annotated[str, Meta(max_length=model.DESCRIPTION_MAX)]
Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339 with its zone.")]
HoldSeconds = Annotated[
    int,
    Meta(
        ge=model.HOLD_SECONDS_MIN,
        le=model.HOLD_SECONDS_MAX,
        description="How long a reservation is held unpaid.",
    ),
]
Price = Annotated[int, Meta(ge=0, le=model.PRICE_MAX, description="In the currency's minor unit.")]
Capacity = Annotated[int, Meta(ge=0, le=model.CAPACITY_MAX, description="Tickets in all.")]
Allowance = Annotated[
    int, Meta(ge=1, le=model.ALLOWANCE_MAX, description="Most tickets of one member.")
]


class TicketTypeBody(Body):
    """One ticket type of a new event."""

    name: Name
    price: Price
    capacity: Capacity
    max_per_member: Allowance | None = None


TicketTypeBodies = Annotated[
    list[TicketTypeBody], Meta(min_length=1, max_length=model.TICKET_TYPES_MAX)
]


class EventBody(Body):
    """A new event. Without its own times the sale opens when published and closes at the start."""

    title: Title
    venue: Venue
    starts_at: Instant
    ticket_types: TicketTypeBodies
    description: Description = ""
    sale_opens_at: Instant | None = None
    sale_closes_at: Instant | None = None
    currency: Currency = model.CURRENCY_DEFAULT
    hold_seconds: HoldSeconds = model.HOLD_SECONDS_DEFAULT

    def details(self) -> Details:
        """What `EventService.create` takes. Raises Refusal `invalid_request` for bad text."""
        no_nul(title=self.title, venue=self.venue, description=self.description)
        return Details(**{name: getattr(self, name) for name in Details.__struct_fields__})

    def types(self) -> list[NewTicketType]:
        """The ticket types, as `EventService.create` takes them. Raises as `details`."""
        no_nul(**{f"ticket_types.{i}.name": t.name for i, t in enumerate(self.ticket_types)})
        return [NewTicketType(**msgspec.structs.asdict(t)) for t in self.ticket_types]


class EventPatch(Body):
    """Any of an event's fields; null puts a sale time back to its default."""

    title: Title | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    venue: Venue | UnsetType = UNSET
    starts_at: Instant | UnsetType = UNSET
    sale_opens_at: Instant | UnsetType | None = UNSET
    sale_closes_at: Instant | UnsetType | None = UNSET
    currency: Currency | UnsetType = UNSET
    hold_seconds: HoldSeconds | UnsetType = UNSET

    def changes(self) -> Changes:
        """What `EventService.patch` takes. Raises Refusal `invalid_request` for bad text."""
        no_nul(title=self.title, venue=self.venue, description=self.description)
        return Changes(**msgspec.structs.asdict(self))


class TicketTypePatch(Body):
    """Any of a ticket type's numbers; null takes the allowance's limit away."""

    capacity: Capacity | UnsetType = UNSET
    price: Price | UnsetType = UNSET
    max_per_member: Allowance | UnsetType | None = UNSET

    def changes(self) -> NumberChanges:
        """What `EventService.patch_ticket_type` takes."""
        return NumberChanges(**msgspec.structs.asdict(self))


class CancelBody(Body):
    """Why an event is called off, told to whoever looks at it."""

    reason: Reason

"""All that other domains may know of the reservation domain."""

from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

import msgspec


class TicketTypeSale(msgspec.Struct, frozen=True):
    """What the sale of one ticket type needs to know. `price` is in the minor unit."""

    id: UUID
    price: int
    capacity: int
    max_per_member: int | None = None


class Sale(msgspec.Struct, frozen=True):
    """One published event as the reserve path sees it.

    `version` grows with every change of the event; an older version never overwrites a newer one,
    so deliveries may repeat and overtake each other.
    """

    event_id: UUID
    organizer_id: UUID
    version: int
    currency: str
    hold_seconds: int
    opens_at: datetime
    closes_at: datetime
    ticket_types: tuple[TicketTypeSale, ...]


class TicketTypeAvailability(msgspec.Struct, frozen=True):
    """`available` is capacity - held - sold, in tickets."""

    id: UUID
    capacity: int
    held: int
    sold: int
    available: int


class Availability(msgspec.Struct, frozen=True):
    """The live count of one event, read at `as_of`."""

    event_id: UUID
    as_of: datetime
    sold_out: bool
    ticket_types: tuple[TicketTypeAvailability, ...]


class ReservationContract(Protocol):
    """The sale side of an event: opened, changed and closed by the event domain.

    Every call is idempotent, and returns only when its effect is committed in PostgreSQL and (for
    at most two seconds of waiting) visible at the gate.
    """

    async def put_sale(self, sale: Sale) -> None:
        """Open the sale or bring it to `sale.version`: windows, currency, hold time.

        Capacity, price and allowance of a ticket type are taken only the first time it is seen;
        `change_ticket_type` changes them afterwards.
        """
        ...

    async def change_ticket_type(
        self,
        ticket_type_id: UUID,
        *,
        capacity: int,
        price: int,
        max_per_member: int | None,
    ) -> None:
        """Set the three numbers of one ticket type, all or none.

        Raises Refusal `capacity_below_committed` when held + sold exceed the new capacity, and
        `not_found` when its sale was never opened.
        """
        ...

    async def cancel_sale(self, event_id: UUID) -> int:
        """Close the sale for good and cancel its holds; returns how many holds were cancelled."""
        ...

    async def availability(self, event_id: UUID) -> Availability | None:
        """The counts, at most one second old; None when the sale was never opened."""
        ...


ReservationStatus = Literal[
    "queued", "held", "confirmed", "cancelled", "expired", "refunded", "rejected"
]

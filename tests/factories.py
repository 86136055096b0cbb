"""Things the tests need to exist: sales, and later members and events."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from korder.domains.reservation.contract import Sale, TicketTypeSale
from korder.domains.reservation.record import shard_of
from korder.kernel.ids import new_id


@dataclass(frozen=True)
class OnSale:
    """An event on sale; `type_raw` and `type_id` are its first ticket type."""

    sale: Sale
    shard: int

    @property
    def event_id(self) -> UUID:
        return self.sale.event_id

    @property
    def type_id(self) -> UUID:
        return self.sale.ticket_types[0].id

    @property
    def type_raw(self) -> bytes:
        return self.type_id.bytes

    @property
    def types_raw(self) -> list[bytes]:
        return [ticket_type.id.bytes for ticket_type in self.sale.ticket_types]


def event_id_on(shard: int | None) -> UUID:
    """A fresh event id that falls on this shard (any, when None)."""
    while True:
        event_id = new_id()
        if shard is None or shard_of(event_id.bytes) == shard:
            return event_id


def make_sale(
    *capacities: int,
    max_per_member: int | None = None,
    price: int = 1000,
    hold_seconds: int = 300,
    opens_in_s: float = -60,
    closes_in_s: float = 3600,
    shard: int | None = None,
    version: int = 1,
) -> OnSale:
    """One event with a ticket type per capacity (default: one of 10), not stored anywhere yet."""
    event_id = event_id_on(shard)
    now = datetime.now(UTC)
    sale = Sale(
        event_id=event_id,
        organizer_id=new_id(),
        version=version,
        currency="KRW",
        hold_seconds=hold_seconds,
        opens_at=now + timedelta(seconds=opens_in_s),
        closes_at=now + timedelta(seconds=closes_in_s),
        ticket_types=tuple(
            TicketTypeSale(
                id=new_id(), price=price, capacity=capacity, max_per_member=max_per_member
            )
            for capacity in capacities or (10,)
        ),
    )
    return OnSale(sale, shard_of(event_id.bytes))

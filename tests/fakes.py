"""Neighbours of a domain, in memory, with the behaviour that their contracts promise."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from korder.domains.reservation.contract import (
    Availability,
    Sale,
    TicketTypeAvailability,
    TicketTypeSale,
)
from korder.kernel.errors import Code, Refusal


class Held:
    """Calls that arrive and go no further until they are let go."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self._let_go = asyncio.Event()

    def let_go(self) -> None:
        self._let_go.set()

    async def wait(self) -> None:
        self.arrived.set()
        await self._let_go.wait()


@dataclass
class FakeReservations:
    """The sale side of events: `ReservationContract`.

    `committed[ticket_type_id]` is what is held and sold there. Exceptions in `failures` are raised
    by the next calls, one each, before they do anything (`None`: that call succeeds). Calls to
    what `hold` names, once, wait before they do anything.
    """

    sales: dict[UUID, Sale] = field(default_factory=dict)
    types: dict[UUID, TicketTypeSale] = field(default_factory=dict)
    committed: dict[UUID, int] = field(default_factory=dict)
    cancelled: set[UUID] = field(default_factory=set)
    failures: list[Exception | None] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def put_sale(self, sale: Sale) -> None:
        await self._called("put_sale")
        known = self.sales.get(sale.event_id)
        if known is None or known.version < sale.version:
            self.sales[sale.event_id] = sale
        for ticket_type in sale.ticket_types:
            self.types.setdefault(ticket_type.id, ticket_type)

    async def change_ticket_type(
        self, ticket_type_id: UUID, *, capacity: int, price: int, max_per_member: int | None
    ) -> None:
        await self._called("change_ticket_type")
        if ticket_type_id not in self.types:
            raise Refusal(Code.NOT_FOUND)
        if self.committed.get(ticket_type_id, 0) > capacity:
            raise Refusal(Code.CAPACITY_BELOW_COMMITTED)
        self.types[ticket_type_id] = TicketTypeSale(ticket_type_id, price, capacity, max_per_member)

    async def cancel_sale(self, event_id: UUID) -> int:
        await self._called("cancel_sale")
        if event_id in self.sales:
            self.cancelled.add(event_id)
        return 0

    async def availability(self, event_id: UUID) -> Availability | None:
        sale = self.sales.get(event_id)
        if sale is None:
            return None
        counts = []
        for ticket_type in sale.ticket_types:
            capacity = self.types[ticket_type.id].capacity
            held = self.committed.get(ticket_type.id, 0)
            counts.append(
                TicketTypeAvailability(ticket_type.id, capacity, held, 0, capacity - held)
            )
        sold_out = all(count.available <= 0 for count in counts)
        return Availability(event_id, datetime.now(UTC), sold_out, tuple(counts))

    def is_open(self, event_id: UUID, at: datetime | None = None) -> bool:
        """Whether a reservation would be taken."""
        sale = self.sales.get(event_id)
        at = at or datetime.now(UTC)
        if sale is None or event_id in self.cancelled:
            return False
        return sale.opens_at <= at < sale.closes_at

    def hold(self, name: str) -> Held:
        """The next call of this name stands still."""
        return self.held.setdefault(name, Held())

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        held = self.held.pop(name, None)
        if held is not None:
            await held.wait()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure


@dataclass
class FakeUsers:
    """Roles by member: the part of `UserContract` that other domains use."""

    roles: dict[UUID, frozenset[str]] = field(default_factory=dict)

    async def roles_of(self, member_id: UUID) -> frozenset[str]:
        return self.roles.get(member_id, frozenset())

    async def public_keys(self) -> dict[str, object]:
        return {}

    async def revocations(self, since: datetime | None) -> list[object]:
        return []


@dataclass
class FakeInvalidation:
    """What was told, with callbacks called at once as in the process that changes something."""

    told: list[tuple[str, str]] = field(default_factory=list)
    callbacks: dict[str, list[Callable[[str], None]]] = field(default_factory=dict)

    def on(self, topic: str, callback: Callable[[str], None]) -> None:
        self.callbacks.setdefault(topic, []).append(callback)

    async def publish(self, topic: str, key: str) -> None:
        self.told.append((topic, key))
        for callback in self.callbacks.get(topic, ()):
            callback(key)

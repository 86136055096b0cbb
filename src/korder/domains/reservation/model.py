"""Decisions about reservations as pure functions of values. Nothing here awaits.

States: `queued -> held | rejected`; `held -> confirmed | cancelled | expired`;
`confirmed -> refunded`. Nothing else.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final, NamedTuple

from korder.domains.reservation.record import Request
from korder.kernel.errors import Code

TRANSITIONS: Final[Mapping[str, frozenset[str]]] = {
    "queued": frozenset({"held", "rejected"}),
    "held": frozenset({"confirmed", "cancelled", "expired"}),
    "confirmed": frozenset({"refunded"}),
    "rejected": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
    "refunded": frozenset(),
}

# Verdicts of the worker, one byte each on the wire.
HELD = b"H"
SOLD_OUT = b"S"
OVER_LIMIT = b"L"
NOT_OPEN = b"N"
CLOSED = b"X"
NO_SUCH_TYPE = b"F"
#: The key had decided another reservation before: ask PostgreSQL for it.
KEY_KNOWN = b"K"
KEY_CONFLICT = b"C"
#: The entry could not be processed and was put among the dead letters.
DEAD = b"E"

REASONS: Final[Mapping[bytes, Code]] = {
    SOLD_OUT: Code.SOLD_OUT,
    OVER_LIMIT: Code.LIMIT_EXCEEDED,
    NOT_OPEN: Code.SALE_NOT_OPEN,
    CLOSED: Code.SALE_CLOSED,
    NO_SUCH_TYPE: Code.NOT_FOUND,
    KEY_CONFLICT: Code.IDEMPOTENCY_CONFLICT,
    DEAD: Code.OVERLOADED,
}
#: Verdicts that leave no row under the request's own id.
ROWLESS: Final = frozenset({KEY_KNOWN, KEY_CONFLICT, DEAD, NO_SUCH_TYPE})
VERDICT_OF: Final[Mapping[str, bytes]] = {code.value: mark for mark, code in REASONS.items()}

#: The API's clock opened the gate; a database clock this much behind does not close it again.
OPENING_SKEW_US = 1_000_000


class TicketTypeState(NamedTuple):
    """One locked inventory row. Instants in µs since the epoch, price in the minor unit."""

    available: int
    price: int
    max_per_member: int | None
    hold_us: int
    opens_us: int
    closes_us: int
    cancelled: bool


def may_become(status: str, target: str) -> bool:
    """Whether the transition exists. An unknown status raises KeyError."""
    return target in TRANSITIONS[status]


def decide(
    requests: Iterable[Request],
    types: Mapping[bytes, TicketTypeState],
    used: MutableMapping[tuple[bytes, bytes], int],
    now_us: int,
) -> list[bytes]:
    """One verdict per request, in order: first come, first served, all or none of a request.

    `used` holds the live quantity per (member, ticket type) of limited types; it is updated so
    that two requests of one batch count each other. Whatever the gate admitted too many, this
    refuses: here and not at the gate it is decided that nothing is oversold.
    """
    left = {key: state.available for key, state in types.items()}
    verdicts = []
    for request in requests:
        state = types.get(request.ticket_type)
        if state is None:
            verdicts.append(NO_SUCH_TYPE)
            continue
        if state.cancelled or now_us >= state.closes_us:
            verdicts.append(CLOSED)
            continue
        if now_us + OPENING_SKEW_US < state.opens_us:
            verdicts.append(NOT_OPEN)
            continue
        quantity = request.quantity
        if state.max_per_member is not None:
            holder = (request.member, request.ticket_type)
            total = used.get(holder, 0) + quantity
            if total > state.max_per_member:
                verdicts.append(OVER_LIMIT)
                continue
            if left[request.ticket_type] < quantity:
                verdicts.append(SOLD_OUT)
                continue
            used[holder] = total
        elif left[request.ticket_type] < quantity:
            verdicts.append(SOLD_OUT)
            continue
        left[request.ticket_type] -= quantity
        verdicts.append(HELD)
    return verdicts

"""A small model of the reservation core: what each step must do, in plain dictionaries.

`Truth` is PostgreSQL, `World` adds the gate in front of it. Nothing here imports the code under
test but for the shape of a request and the marks of the verdicts.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from korder.domains.reservation.record import ACCEPTED_BEFORE, HAS_KEY, Request

Holder = tuple[bytes, bytes]


@dataclass
class TicketType:
    capacity: int
    limit: int | None


@dataclass
class Row:
    """One row of `reservations`; `verdict` is what its request was told when it was decided."""

    request: Request
    verdict: bytes
    status: str


class Truth:
    """What PostgreSQL knows."""

    def __init__(self, types: dict[bytes, TicketType]) -> None:
        self.types = types
        self.rows: dict[bytes, Row] = {}
        self.keys: dict[Holder, Row] = {}

    def held(self, ticket_type: bytes) -> int:
        return sum(
            row.request.quantity
            for row in self.rows.values()
            if row.status == "held" and row.request.ticket_type == ticket_type
        )

    def left(self, ticket_type: bytes) -> int:
        return self.types[ticket_type].capacity - self.held(ticket_type)

    def live(self) -> Counter[Holder]:
        """Held tickets per (member, ticket type)."""
        live: Counter[Holder] = Counter()
        for row in self.rows.values():
            if row.status == "held":
                live[row.request.member, row.request.ticket_type] += row.request.quantity
        return live

    def decide(self, requests: Iterable[Request]) -> list[bytes]:
        return [self._decide(request) for request in requests]

    def _decide(self, request: Request) -> bytes:
        if request.id in self.rows:
            return self.rows[request.id].verdict
        key = (request.member, request.digest)
        if request.flags & HAS_KEY and key in self.keys:
            same = self.keys[key].request.fingerprint == request.fingerprint
            return b"K" if same else b"C"
        verdict = self._fits(request)
        row = Row(request, verdict, "held" if verdict == b"H" else "rejected")
        self.rows[request.id] = row
        if request.flags & HAS_KEY:
            self.keys[key] = row
        return verdict

    def _fits(self, request: Request) -> bytes:
        limit = self.types[request.ticket_type].limit
        has = self.live()[request.member, request.ticket_type]
        if limit is not None and has + request.quantity > limit:
            return b"L"
        return b"H" if request.quantity <= self.left(request.ticket_type) else b"S"


@dataclass
class Entry:
    """A stream entry; `read` once a worker has got it."""

    requests: Sequence[Request]
    read: bool = False


@dataclass
class Gate:
    """What Valkey knows. `keys`: (member, digest) -> (fingerprint, mark, reservation id)."""

    stock: dict[bytes, int] = field(default_factory=dict)
    limits: dict[bytes, int | None] = field(default_factory=dict)
    allowance: Counter[Holder] = field(default_factory=Counter)
    keys: dict[Holder, tuple[bytes, bytes, bytes]] = field(default_factory=dict)
    stream: list[Entry] = field(default_factory=list)

    def waiting(self, ticket_type: bytes) -> int:
        return sum(
            request.quantity
            for entry in self.stream
            for request in entry.requests
            if request.ticket_type == ticket_type
        )

    def give_back(self, member: bytes, ticket_type: bytes, quantity: int) -> None:
        """An allowance, never below zero."""
        left = self.allowance[member, ticket_type] - quantity
        self.allowance[member, ticket_type] = max(0, left)


class World:
    """Truth, gate, and the outbox between them."""

    def __init__(self, types: dict[bytes, TicketType]) -> None:
        self.truth = Truth(types)
        self.gate = Gate()
        self.outbox: list[tuple[bytes, bytes | None, int]] = []

    # -- the path

    def admit(self, requests: Sequence[Request]) -> list[bytes]:
        """The gate's codes; what it accepts is one stream entry."""
        codes = [self._admit(request) for request in requests]
        accepted = [r for r, code in zip(requests, codes, strict=True) if code == b"A"]
        if accepted:
            self.gate.stream.append(Entry(accepted))
        return codes

    def _admit(self, request: Request) -> bytes:
        gate, key = self.gate, (request.member, request.digest)
        keyed = request.flags & HAS_KEY
        if keyed and key in gate.keys:
            return b"D" if gate.keys[key][0] == request.fingerprint else b"C"
        code = self._room(request)
        if keyed:
            mark = b"P" if code == b"A" else code
            gate.keys[key] = (request.fingerprint, mark, request.id)
        return code

    def _room(self, request: Request) -> bytes:
        if request.flags & ACCEPTED_BEFORE:
            return b"A"
        gate, holder = self.gate, (request.member, request.ticket_type)
        limit = gate.limits[request.ticket_type]
        if limit is not None and gate.allowance[holder] + request.quantity > limit:
            return b"L"
        if gate.stock[request.ticket_type] < request.quantity:
            return b"S"
        gate.stock[request.ticket_type] -= request.quantity
        if limit is not None:
            gate.allowance[holder] += request.quantity
        return b"A"

    def settle(self, entries: Sequence[Entry], verdicts: Sequence[bytes]) -> None:
        """The first settlement of an entry gives back; every one remembers keys."""
        pairs = iter(verdicts)
        for entry in entries:
            first = any(entry is known for known in self.gate.stream)
            for request in entry.requests:
                self._settle(request, next(pairs), first=first)
            self.gate.stream = [known for known in self.gate.stream if known is not entry]

    def _settle(self, request: Request, verdict: bytes, *, first: bool) -> None:
        key = (request.member, request.digest)
        if request.flags & HAS_KEY:
            fingerprint, mark = request.fingerprint, verdict
            if verdict in b"KC":
                fingerprint, mark = self.truth.keys[key].request.fingerprint, b"K"
            self.gate.keys[key] = (fingerprint, mark, request.id)
        if verdict != b"H" and first:
            self.gate.stock[request.ticket_type] += request.quantity
            self.gate.give_back(request.member, request.ticket_type, request.quantity)

    # -- around it

    def end(self, rid: bytes, status: str) -> None:
        """A hold ends; the gate is told later."""
        row = self.truth.rows[rid]
        row.status = status
        request = row.request
        self.outbox.append((request.ticket_type, request.member, request.quantity))

    def resize(self, ticket_type: bytes, capacity: int) -> bool:
        """False when it would undercut what is held."""
        if self.truth.held(ticket_type) > capacity:
            return False
        self.truth.types[ticket_type].capacity = capacity
        self.outbox.append((ticket_type, None, 0))
        return True

    def relay(self) -> None:
        for ticket_type, member, quantity in self.outbox:
            if member is not None:
                self.gate.give_back(member, ticket_type, quantity)
        self.set_stock({ticket_type for ticket_type, _, _ in self.outbox})
        self.outbox = []

    def set_stock(self, ticket_types: Iterable[bytes]) -> None:
        """What PostgreSQL has left, less what the stream has still to bring to it."""
        for ticket_type in ticket_types:
            left = self.truth.left(ticket_type) - self.gate.waiting(ticket_type)
            self.gate.stock[ticket_type] = left
            self.gate.limits[ticket_type] = self.truth.types[ticket_type].limit

    def rebuild(self) -> None:
        limited = {key for key, kind in self.truth.types.items() if kind.limit is not None}
        live = self.truth.live()
        self.gate.allowance = Counter({h: count for h, count in live.items() if h[1] in limited})
        self.set_stock(self.truth.types)

    def valkey_emptied(self) -> None:
        self.gate = Gate()
        self.rebuild()

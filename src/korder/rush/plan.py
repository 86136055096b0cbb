"""What the load generator is told, and what it tells: the messages between two processes."""

from typing import Literal
from uuid import UUID

import msgspec

#: Answers that are a hold; every other kind is a refusal's code, or one of the two below.
HELD = "held"
#: Still refused with 503 when the patience was over.
OVERLOADED = "overloaded"
#: No final answer: the connection broke, or time ran out.
ERROR = "error"


class Buyer(msgspec.Struct, frozen=True, array_like=True):
    """One request of a member, on a connection of its own."""

    member: UUID
    token: str
    key: str


class Plan(msgspec.Struct, frozen=True):
    """One rush. Times in seconds."""

    base_url: str
    event_id: UUID
    ticket_type_id: UUID
    quantity: int
    buyers: list[Buyer]
    patience_s: float = 60.0
    connect_timeout_s: float = 10.0


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """What became of one buyer.

    `kind` is HELD, a refusal's code, OVERLOADED or ERROR; `queued` tells that a 202 came first.
    Instants in ms after the start signal; a sale's `answered_ms` is when its 201 (or the answer
    that replaced it) was read. `retries` count 503 answers, `broken` lost connections.
    """

    buyer: int
    kind: str
    status: int
    queued: bool
    answered_ms: float
    reservation: UUID | None = None
    retries: int = 0
    broken: int = 0
    error: str = ""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Sent a few times a second."""

    phase: Literal["connecting", "rushing"]
    connected: int
    answered: int
    held: int


class Outcome(msgspec.Struct, frozen=True, tag="outcome"):
    """Sent once, at the end. `started_at` is RFC 3339, `connect_s` how long connecting took."""

    started_at: str
    connect_s: float
    attempts: list[Attempt]


Message = Progress | Outcome

"""The named queries of the domain, and their rows as the contract shows them."""

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from korder.domains.user.contract import Role
from korder.platform.postgres import load_queries

#: The schema of the domain's tables.
SCHEMA = "users"

queries = load_queries(Path(__file__).with_name("queries.sql"))


class Member(msgspec.Struct, frozen=True):
    """A live member. `points` is the balance."""

    id: UUID
    email: str
    name: str
    roles: list[Role]
    points: int
    created_at: datetime


class LedgerEntry(msgspec.Struct, frozen=True):
    """One movement of points; a negative `delta` took some away."""

    id: UUID
    delta: int
    reason: str
    created_at: datetime


def to_member(row: Any) -> Member:
    """A row of the member queries."""
    return Member(
        id=row["id"],
        email=row["email"],
        name=row["name"],
        roles=row["roles"],
        points=row["points"],
        created_at=row["created_at"],
    )


def to_entry(row: Any) -> LedgerEntry:
    """A row of the ledger queries."""
    return LedgerEntry(
        id=row["id"], delta=row["delta"], reason=row["reason"], created_at=row["created_at"]
    )

"""All that other domains may know of the user domain."""

from collections.abc import Collection
from datetime import datetime
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from korder.kernel.errors import Code, Refusal

Role = Literal["member", "organizer", "admin"]


class Revocation(NamedTuple):
    """A session whose access tokens are worth nothing from `revoked_at` on.

    `access_expires_at` is when the last of them would have ended: until then it must be refused.
    """

    session_id: UUID
    revoked_at: datetime
    access_expires_at: datetime


class UserContract(Protocol):
    """Who somebody is and what they may do."""

    async def roles_of(self, member_id: UUID) -> frozenset[str]:
        """The member's roles, at most a second old; empty for an unknown or deleted member."""
        ...

    async def public_keys(self) -> dict[str, RSAPublicKey]:
        """By `kid`, every key that a living access token may be signed with, read just now."""
        ...

    async def revocations(self, since: datetime | None) -> list[Revocation]:
        """Revoked sessions that may still have a living access token, oldest first.

        With `since`, those revoked from then on, and some a little older: a revocation is stamped
        before its transaction commits, so the answers of two calls overlap on purpose.
        """
        ...


class HasMember(Protocol):
    """The part of `korder.platform.auth.Principal` that roles need."""

    @property
    def member_id(self) -> UUID:
        """Who asks."""
        ...


async def require_role(users: UserContract, principal: HasMember, *roles: Role) -> frozenset[str]:
    """The roles of who asks, if they include one of `roles`; an admin may do everything.

    Raises Refusal `forbidden`. The token's own `roles` are not trusted: a change works at once.
    """
    found = await users.roles_of(principal.member_id)
    if not allowed(found, roles):
        raise Refusal(Code.FORBIDDEN)
    return found


def allowed(found: Collection[str], wanted: Collection[str]) -> bool:
    """Whether somebody with the roles `found` may do what one of `wanted` may."""
    return "admin" in found or not set(found).isdisjoint(wanted)

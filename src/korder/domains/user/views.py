"""Bodies of the member routes, as OpenAPI shows them."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from korder.domains.user.contract import Role
from korder.domains.user.model import (
    EMAIL_MAX,
    EMAIL_PATTERN,
    NAME_MAX,
    PASSWORD_MAX,
    PASSWORD_MIN,
)
from korder.domains.user.points import DELTA_MAX, REASON_MAX
from korder.domains.user.store import LedgerEntry
from korder.domains.user.tokens import Jwk
from korder.platform.http.common import Body

#: Shown in OpenAPI; checked by `no_nul`, whose refusal says what is wrong.
_STORABLE = {"extra": {"pattern": r"^[^\x00]*$"}}

Email = Annotated[
    str,
    Meta(max_length=EMAIL_MAX, extra_json_schema={"extra": {"pattern": EMAIL_PATTERN}}),
]
NewPassword = Annotated[
    str, Meta(min_length=PASSWORD_MIN, max_length=PASSWORD_MAX, extra_json_schema=_STORABLE)
]
Name = Annotated[str, Meta(min_length=1, max_length=NAME_MAX, extra_json_schema=_STORABLE)]
#: What is compared only: a wrong one is a 401, whatever its form.
SomeEmail = Annotated[str, Meta(max_length=1024, extra_json_schema=_STORABLE)]
SomePassword = Annotated[str, Meta(max_length=1024, extra_json_schema=_STORABLE)]
RefreshToken = Annotated[str, Meta(max_length=1024)]
Delta = Annotated[
    int,
    Meta(
        ge=-DELTA_MAX,
        le=DELTA_MAX,
        extra_json_schema={"extra": {"not": {"const": 0}}},
    ),
]
Reason = Annotated[str, Meta(min_length=1, max_length=REASON_MAX, extra_json_schema=_STORABLE)]


class SignupBody(Body):
    """Who signs up."""

    email: Email
    password: NewPassword
    name: Name


class LoginBody(Body):
    """Who signs in."""

    email: SomeEmail
    password: SomePassword


class RefreshBody(Body):
    """A refresh token, to be spent or ended."""

    refresh_token: RefreshToken


class MemberChanges(Body):
    """What a member may change; what is left out stays."""

    name: Name | UnsetType = UNSET


class RolesBody(Body):
    """The roles a member has from now on."""

    roles: Annotated[list[Role], Meta(min_length=1)]


class PointsBody(Body):
    """Points to give or, negative, to take; never 0."""

    delta: Delta
    reason: Reason


class PointsPage(msgspec.Struct, frozen=True):
    """A balance and the movements that made it, newest first."""

    balance: int
    items: list[LedgerEntry]
    next_cursor: str | None


class Jwks(msgspec.Struct, frozen=True):
    """The public keys (RFC 7517)."""

    keys: list[Jwk]

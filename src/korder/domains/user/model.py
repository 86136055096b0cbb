"""Decisions of the user domain as pure functions of values."""

import re
import unicodedata
from collections.abc import Collection
from enum import Enum
from typing import get_args

from korder.domains.user.contract import Role
from korder.kernel.errors import Code, Refusal

#: RFC 5321, section 4.5.3.1.3: a path of 256 octets less its angle brackets.
EMAIL_MAX = 254
NAME_MAX = 100
PASSWORD_MIN, PASSWORD_MAX = 10, 128

#: In the order in which they are shown.
ROLES: tuple[str, ...] = get_args(Role)

#: One `@` with something on both sides, no blanks, no controls. Whether mail arrives there is
#: for a mail to find out, not for a pattern.
EMAIL_PATTERN = r"^\s*[^\s@\x00-\x1f\x7f-\x9f]+@[^\s@\x00-\x1f\x7f-\x9f]+\s*$"
_EMAIL = re.compile(EMAIL_PATTERN)


def normal_email(text: str) -> str:
    """The address without blanks around it, in Unicode's composed form (NFC), case as written.

    Two addresses that differ in case only are the same one: that is the unique index's business.
    """
    return unicodedata.normalize("NFC", text.strip())


def valid_email(text: str) -> str:
    """`normal_email`, if it can be one. Raises Refusal `invalid_request`."""
    email = normal_email(text)
    if len(email) > EMAIL_MAX or not _EMAIL.match(email):
        raise Refusal(Code.INVALID_REQUEST, fields=(("email", "email"),))
    return email


def clean_password(text: str) -> str:
    """The password in NFC, so that two keyboards that compose Hangul differently agree."""
    return unicodedata.normalize("NFC", text)


def clean_roles(roles: Collection[str]) -> list[str]:
    """Each role once, in the order of `ROLES`."""
    return [role for role in ROLES if role in roles]


def removes_last_admin(before: Collection[str], after: Collection[str], other_admins: int) -> bool:
    """Whether a change of roles would leave nobody to undo it."""
    return "admin" in before and "admin" not in after and other_admins == 0


class Rotation(Enum):
    """What presenting a refresh token leads to."""

    ROTATE = "rotate"
    #: Somebody has used it before: a thief or the robbed, nobody can tell. The family ends.
    REUSED = "reused"
    REFUSED = "refused"


def decide_rotation(*, used: bool, expired: bool, revoked: bool, deleted: bool) -> Rotation:
    """RFC 9700, section 4.14.2: each refresh token works once, and a second use is an alarm."""
    if revoked or deleted:
        return Rotation.REFUSED
    if used:
        return Rotation.REUSED
    return Rotation.REFUSED if expired else Rotation.ROTATE

"""Making an administrator from the command line: the only way to the first one."""

from collections.abc import Awaitable, Callable
from typing import Literal
from uuid import UUID

import msgspec

from korder.domains.user.members import add_member
from korder.domains.user.model import (
    NAME_MAX,
    PASSWORD_MAX,
    PASSWORD_MIN,
    clean_roles,
    valid_email,
)
from korder.domains.user.passwords import Passwords
from korder.domains.user.store import queries
from korder.kernel.errors import Code, Refusal
from korder.platform.postgres import Connection


class MadeAdmin(msgspec.Struct, frozen=True):
    """What was done. `ended` are sessions that a new password put an end to."""

    id: UUID
    email: str
    did: Literal["created", "promoted", "unchanged"]
    password_set: bool
    ended: list[UUID]


async def make_admin(
    conn: Connection,
    email: str,
    name: str | None,
    passwords: Passwords,
    ask: Callable[[], Awaitable[str]],
    *,
    set_password: bool,
) -> MadeAdmin:
    """Create an admin, or promote the member who has the address, in the caller's transaction.

    `ask` gives the password; it is asked only when one is needed: for a new member, or with
    `set_password`. A new password ends the member's sessions. Raises Refusal `invalid_request`.
    """
    email = valid_email(email)
    await queries.lock_roles(conn)
    row = await queries.member_by_email(conn, email=email)
    if row is None:
        encoded = await passwords.hash(_checked(await ask()))
        label = (name or email.partition("@")[0])[:NAME_MAX]
        member = await add_member(conn, email, label, encoded, ("member", "admin"))
        return MadeAdmin(member.id, member.email, "created", True, [])
    wanted = clean_roles([*row["roles"], "admin"])
    promoted = wanted != row["roles"]
    if promoted:
        await queries.set_roles(conn, id=row["id"], roles=wanted)
    ended: list[UUID] = []
    if set_password:
        encoded = await passwords.hash(_checked(await ask()))
        await queries.set_password(conn, id=row["id"], password_hash=encoded)
        rows = queries.revoke_sessions_of(conn, member_id=row["id"], reason="password")
        ended = [session["id"] async for session in rows]
    did: Literal["promoted", "unchanged"] = "promoted" if promoted else "unchanged"
    return MadeAdmin(row["id"], row["email"], did, set_password, ended)


def _checked(password: str) -> str:
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise Refusal(Code.INVALID_REQUEST, fields=(("password", "text_length"),))
    return password

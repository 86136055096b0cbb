"""Use cases of members: signing up, reading, renaming, roles, deletion."""

import time
from uuid import UUID

import asyncpg
import msgspec

from korder.domains.user.model import clean_roles, normal_email, removes_last_admin, valid_email
from korder.domains.user.passwords import Passwords
from korder.domains.user.sessions import Sessions
from korder.domains.user.store import SCHEMA, Member, queries, to_member
from korder.kernel.clock import utc_now
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import new_id
from korder.platform.idempotency import Answer, IdempotencyKey, fingerprint_of, once
from korder.platform.invalidation import ALL, Invalidation
from korder.platform.postgres import Connection, Pool, transaction

#: Roles are read again after this long; a change tells every process at once besides.
ROLES_FRESH_S = 1.0
ROLES_CACHED_MAX = 50_000
#: Topic on which ids of members with changed roles are told.
MEMBER_TOPIC = "member"
SIGNUP_SCOPE = "anonymous:POST /v1/auth/signup"


class Members:
    """Everything about members but their sessions and points."""

    def __init__(
        self, pool: Pool, invalidation: Invalidation, passwords: Passwords, sessions: Sessions
    ) -> None:
        self._pool = pool
        self._invalidation = invalidation
        self._passwords = passwords
        self._sessions = sessions
        self._roles: dict[UUID, tuple[float, frozenset[str]]] = {}
        self._changes = 0
        invalidation.on(MEMBER_TOPIC, self._forget)

    async def signup(
        self, email: str, password: str, name: str, key: IdempotencyKey | None
    ) -> Answer:
        """201 with the new member.

        Raises Refusal `invalid_request`, `email_taken`, `idempotency_conflict`, `overloaded`.
        """
        email = valid_email(email)
        if key is None:
            await self._still_free(email)  # hashing is dear: refuse early what can be refused
        encoded = await self._passwords.hash(password)
        # Nothing of the password goes into the fingerprint: a fast hash of it could be guessed.
        fingerprint = fingerprint_of(email, name)

        async def create() -> Answer:
            return Answer(201, msgspec.json.encode(await add_member(conn, email, name, encoded)))

        async with transaction(self._pool) as conn:
            answer = await once(conn, SCHEMA, SIGNUP_SCOPE, key, fingerprint, create)
            member = msgspec.json.decode(answer.body, type=Member)
            if key is not None and not answer.replayed:
                await queries.answer_is_about(
                    conn, scope=SIGNUP_SCOPE, key_digest=key.digest, member_id=member.id
                )
        if answer.replayed:
            await self._same_password(member.id, password)
        return answer

    async def get(self, member_id: UUID) -> Member:
        """The member who asks. Raises Refusal `unauthenticated` when it was deleted."""
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.member(conn, id=member_id)
        return to_member(_who_asks(row))

    async def rename(self, member_id: UUID, name: str) -> Member:
        """Set the name of the member who asks."""
        async with self._pool.acquire(timeout=5) as conn:
            row = await queries.set_name(conn, id=member_id, name=name)
        return to_member(_who_asks(row))

    async def delete(self, member_id: UUID) -> None:
        """Erase the personal data, end every session, free the address. Repeating is harmless."""
        async with transaction(self._pool) as conn:
            if await queries.erase_member(conn, id=member_id) is None:
                return
            await queries.forget_answers(conn, member_id=member_id)
            ended = await self._sessions.revoke_all(conn, member_id, "deleted")
        await self._invalidation.publish(MEMBER_TOPIC, str(member_id))
        await self._sessions.tell(ended)

    async def page(self, email: str | None, before: UUID | None, most: int) -> list[Member]:
        """Members, newest first, below the id `before`; with `email` the one who has it."""
        wanted = None if email is None else normal_email(email)
        async with self._pool.acquire(timeout=5) as conn:
            rows = queries.members(conn, email=wanted, before=before, most=most)
            return [to_member(row) async for row in rows]

    async def set_roles(self, member_id: UUID, roles: list[str]) -> Member:
        """Replace a member's roles.

        Raises Refusal `not_found`, and `invalid_state` when no admin would be left.
        """
        wanted = clean_roles(roles)
        async with transaction(self._pool) as conn:
            await queries.lock_roles(conn)
            before = await queries.roles_of(conn, id=member_id)
            if before is None:
                raise Refusal(Code.NOT_FOUND)
            if removes_last_admin(before, wanted, await queries.other_admins(conn, id=member_id)):
                raise Refusal(Code.INVALID_STATE, detail_key="invalid_state.last_admin")
            row = await queries.set_roles(conn, id=member_id, roles=wanted)
            if row is None:
                raise Refusal(Code.NOT_FOUND)
        await self._invalidation.publish(MEMBER_TOPIC, str(member_id))
        return to_member(row)

    async def roles_of(self, member_id: UUID) -> frozenset[str]:
        """See `contract.UserContract.roles_of`."""
        cached = self._roles.get(member_id)
        if cached is not None and time.monotonic() - cached[0] < ROLES_FRESH_S:
            return cached[1]
        # The age counts from before the query, and what was read before a change is not kept.
        asked, changes = time.monotonic(), self._changes
        async with self._pool.acquire(timeout=5) as conn:
            found = frozenset(await queries.roles_of(conn, id=member_id) or ())
        if changes == self._changes:
            self._remember(member_id, asked, found)
        return found

    def _remember(self, member_id: UUID, asked: float, roles: frozenset[str]) -> None:
        while len(self._roles) >= ROLES_CACHED_MAX:
            self._roles.pop(next(iter(self._roles)))
        self._roles[member_id] = (asked, roles)

    def _forget(self, key: str) -> None:
        self._changes += 1
        if key == ALL:
            self._roles.clear()
        else:
            self._roles.pop(UUID(key), None)

    async def _still_free(self, email: str) -> None:
        async with self._pool.acquire(timeout=5) as conn:
            if await queries.member_by_email(conn, email=email) is not None:
                raise Refusal(Code.EMAIL_TAKEN)

    async def _same_password(self, member_id: UUID, password: str) -> None:
        """The part of "same key, same body" that the fingerprint leaves out."""
        async with self._pool.acquire(timeout=5) as conn:
            encoded = await queries.password_of(conn, id=member_id)
        if not await self._passwords.verify(encoded, password):
            raise Refusal(Code.IDEMPOTENCY_CONFLICT)


async def add_member(
    conn: Connection,
    email: str,
    name: str,
    password_hash: str,
    roles: tuple[str, ...] = ("member",),
) -> Member:
    """Insert a member in the caller's transaction. Raises Refusal `email_taken`."""
    member = Member(new_id(), email, name, list(roles), 0, utc_now())  # type: ignore[arg-type]
    inserted = await queries.insert_member(
        conn,
        id=member.id,
        email=email,
        name=name,
        password_hash=password_hash,
        roles=list(roles),
        created_at=member.created_at,
    )
    if inserted is None:
        raise Refusal(Code.EMAIL_TAKEN)
    return member


def _who_asks(row: asyncpg.Record | None) -> asyncpg.Record:
    """A token outlives its member for a moment only: such a caller is nobody."""
    if row is None:
        raise Refusal(Code.UNAUTHENTICATED)
    return row

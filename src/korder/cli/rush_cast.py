"""The people of a rush: members with tokens, and an organizer, straight in the database."""

import base64
import json
from typing import NamedTuple
from uuid import UUID

import asyncpg

from korder.domains.user.keys import RETIRED_SLACK_S
from korder.domains.user.mint import mint
from korder.domains.user.store import queries
from korder.domains.user.tokens import Issuer
from korder.settings import Settings

#: Long enough for the slowest rush, short enough to leave no lasting keys about.
TOKEN_S = 3600


class Cast(NamedTuple):
    """`members` are (id, access token)."""

    organizer_token: str
    members: list[tuple[UUID, str]]


async def cast(database_url: str, settings: Settings, count: int) -> Cast:
    """Make `count` members and an organizer. Raises what asyncpg raises."""
    conn = await asyncpg.connect(database_url, timeout=5, command_timeout=60)
    try:
        async with conn.transaction():
            tokens = await mint(
                conn,
                Issuer(settings.issuer, settings.audience),
                count=count + 1,
                ttl_s=TOKEN_S,
                slack_s=settings.access_token_s + RETIRED_SLACK_S,
                progress=lambda _: None,
            )
            organizer, *members = tokens
            await queries.set_roles(conn, id=subject(organizer), roles=["member", "organizer"])
    finally:
        await conn.close()
    return Cast(organizer, [(subject(token), token) for token in members])


def subject(token: str) -> UUID:
    """The member of a token that we have made ourselves, hence without verification."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return UUID(claims["sub"])

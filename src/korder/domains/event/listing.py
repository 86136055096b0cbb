"""Lists of events: which rows somebody may see, and where a page begins."""

import struct
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from korder.domains.event.announce import queries
from korder.domains.event.model import EARLIEST, LATEST, Status
from korder.domains.event.views import Event, to_event
from korder.kernel.clock import from_micros, to_micros
from korder.kernel.errors import Code, Refusal
from korder.platform.postgres import Connection

QUERY_MAX = 200


class Wanted(NamedTuple):
    """What a list shows. Without a status: what is on sale, or, of one's own, everything."""

    q: str | None = None
    status: Status | None = None
    organizer: Literal["me"] | None = None


class Place(NamedTuple):
    """The last item of a page: its sale's opening (or creation) and its id."""

    listed_at: datetime
    id: UUID

    def raw(self) -> bytes:
        """24 bytes: microseconds since the epoch, then the id."""
        return _PLACE.pack(to_micros(self.listed_at), self.id.bytes)

    @classmethod
    def of(cls, raw: bytes | None) -> "Place":
        """The inverse; before everything for None.

        Raises ValueError for bytes that `raw` does not make.
        """
        if raw is None:
            return _TOP
        if len(raw) != _PLACE.size:
            raise ValueError("not a place in a list")
        micros, event = _PLACE.unpack(raw)
        if not _EARLIEST_US <= micros <= _LATEST_US:
            raise ValueError("not a place in a list")
        return cls(from_micros(micros), UUID(bytes=event))


_PLACE = struct.Struct(">q16s")
_EARLIEST_US, _LATEST_US = to_micros(EARLIEST), to_micros(LATEST)
_TOP = Place(datetime(2300, 1, 1, tzinfo=UTC), UUID(int=0))


async def page(
    conn: Connection,
    wanted: Wanted,
    *,
    asker: UUID | None,
    is_admin: bool,
    after: Place,
    limit: int,
) -> tuple[list[Event], Place | None]:
    """Up to `limit` events that the asker may see, and where the next page begins.

    Drafts, and what was cancelled without ever having been published, are seen by their organizer
    and by admins. Raises Refusal `unauthenticated` when somebody unknown asks for their own.
    """
    place = {
        "pattern": _pattern(wanted.q),
        "before_at": after.listed_at,
        "before_id": after.id,
        "most": limit + 1,
    }
    if wanted.organizer == "me" and asker is None:
        raise Refusal(Code.UNAUTHENTICATED)
    own_drafts = wanted.status == "draft" and not is_admin
    if own_drafts and asker is None:
        return [], None
    if wanted.organizer == "me" or own_drafts:
        found = queries.list_of_organizer(conn, organizer_id=asker, status=wanted.status, **place)
    else:
        found = queries.list_by_status(
            conn, status=wanted.status or "published", unpublished=is_admin, **place
        )
    rows: list[Any] = [row async for row in found]
    last = rows[limit - 1] if len(rows) > limit else None
    following = Place(last["listed_at"], last["id"]) if last is not None else None
    return [to_event(row) for row in rows[:limit]], following


def _pattern(q: str | None) -> str | None:
    """An ILIKE pattern that finds `q` literally, anywhere."""
    if not q:
        return None
    escaped = q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"

"""Set the stage over HTTP: an event made and published, or one that is on sale already."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec

from korder.kernel.clock import rfc3339, utc_now
from korder.kernel.ids import new_id
from korder.rush.launch import RushError
from korder.rush.wire import Address, Connection, connect, request_bytes

TIMEOUT_S = 10.0
#: Longer than any rush, so that what was sold can still be counted when it is over.
HOLD_SECONDS = 3600


class Stage(msgspec.Struct, frozen=True):
    """What the crowd wants. `available` was read just before; `ours` tells that we made it."""

    event_id: UUID
    ticket_type_id: UUID
    title: str
    capacity: int
    available: int
    max_per_member: int | None
    ours: bool


class Api:
    """A few calls, one after another, on one connection."""

    def __init__(self, base_url: str, token: str) -> None:
        self._address = Address.of(base_url)
        self._token = token
        self._connection: Connection | None = None

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer; RushError for anything but 2xx, or when nobody answers."""
        raw = b"" if body is None else msgspec.json.encode(body)
        key = str(new_id()) if method == "POST" else ""
        request = request_bytes(self._address, method, path, self._token, raw, idempotency_key=key)
        try:
            if self._connection is None or not self._connection.open:
                self._connection = await connect(self._address, timeout_s=TIMEOUT_S)
            response = await self._connection.ask(request)
        except (OSError, TimeoutError) as error:
            raise RushError(f"{method} {path}: {error or type(error).__name__}") from error
        if not 200 <= response.status < 300:
            text = response.body.decode(errors="replace")[:300]
            raise RushError(f"{method} {path} was answered with {response.status}: {text}")
        return msgspec.json.decode(response.body)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


async def make_event(api: Api, *, tickets: int, max_per_member: int | None, title: str) -> Stage:
    """Make and publish an event with one ticket type; its sale is open on return."""
    event = await api.call(
        "POST",
        "/v1/events",
        {
            "title": title,
            "venue": "Korder Hall",
            "starts_at": rfc3339(utc_now() + timedelta(days=30)),
            "hold_seconds": HOLD_SECONDS,
            "ticket_types": [
                {
                    "name": "Standing",
                    "price": 55_000,
                    "capacity": tickets,
                    "max_per_member": max_per_member,
                }
            ],
        },
    )
    await api.call("POST", f"/v1/events/{event['id']}/publish")
    stage = await existing_event(api, UUID(event["id"]), None)
    return msgspec.structs.replace(stage, ours=True)


async def existing_event(api: Api, event_id: UUID, ticket_type_id: UUID | None) -> Stage:
    """An event on sale and one of its ticket types (the first, unless one is named)."""
    event = await api.call("GET", f"/v1/events/{event_id}")
    counts = await api.call("GET", f"/v1/events/{event_id}/availability")
    types = {item["id"]: item for item in event["ticket_types"]}
    chosen = str(ticket_type_id) if ticket_type_id else next(iter(types), "")
    if chosen not in types:
        raise RushError(f"the event {event_id} has no ticket type {chosen or 'at all'}")
    count = next((c for c in counts["ticket_types"] if c["id"] == chosen), None)
    if count is None:
        raise RushError(f"the event {event_id} is not on sale")
    return Stage(
        event_id=event_id,
        ticket_type_id=UUID(chosen),
        title=event["title"],
        capacity=count["capacity"],
        available=count["available"],
        max_per_member=types[chosen].get("max_per_member"),
        ours=False,
    )

"""The raw route of one event, for those who are not signed in: from process memory."""

from uuid import UUID

from korder.domains.event.service import EventService
from korder.kernel.errors import Code, Refusal
from korder.platform.http.edge import Call, Pending, Reply, public_json


class EventRoutes:
    """One per API process."""

    def __init__(self, events: EventService) -> None:
        self._events = events

    def begin(self, call: Call, body: bytes, _pending: Pending) -> Reply | bool:
        """The short way: what is in memory; everything else is left to `get`."""
        if b"authorization" in call.headers or body:
            return False
        found = self._events.cached_public(call.path[len("/v1/events/") :])
        return False if found is None else public_json(found)

    async def get(self, call: Call) -> Reply | None:
        """GET /v1/events/{id}; who sends a token may see more and is left to the framework."""
        if b"authorization" in call.headers:
            return None
        text = call.path[len("/v1/events/") :]
        body = self._events.cached_public(text)
        if body is None:
            body = await self._events.public(_uuid(text))
        return public_json(body)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Refusal(Code.NOT_FOUND) from None

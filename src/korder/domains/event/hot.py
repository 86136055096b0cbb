"""The raw route of one event, for those who are not signed in: from process memory."""

from uuid import UUID

from korder.domains.event.service import EventService
from korder.kernel.errors import Code, Refusal
from korder.platform.http.edge import Call, Reply


class EventRoutes:
    """One per API process."""

    def __init__(self, events: EventService) -> None:
        self._events = events

    async def get(self, call: Call) -> Reply | None:
        """GET /v1/events/{id}; who sends a token may see more and is left to the framework."""
        if b"authorization" in call.headers:
            return None
        text = call.path[len("/v1/events/") :]
        body = self._events.cached_public(text)
        if body is None:
            body = await self._events.public(_uuid(text))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"public, max-age=0, s-maxage=1"),
        ]
        return 200, headers, body


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Refusal(Code.NOT_FOUND) from None

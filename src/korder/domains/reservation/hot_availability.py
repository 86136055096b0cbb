"""GET /v1/events/{id}/availability, from process memory while it is fresh."""

from korder.domains.reservation.order import uuid_of
from korder.domains.reservation.service import ReservationService
from korder.kernel.errors import Code, Refusal
from korder.platform.http.edge import Call, Pending, Reply, public_json

_BEFORE, _AFTER = len("/v1/events/"), len("/availability")


class AvailabilityRoutes:
    """One per API process."""

    def __init__(self, service: ReservationService) -> None:
        self._service = service

    def begin(self, call: Call, body: bytes, _pending: Pending) -> Reply | bool:
        """The short way: what is fresh in memory; everything else is left to `get`."""
        found = self._service.availability_cached(call.path[_BEFORE:-_AFTER])
        return False if found is None or body else public_json(found)

    async def get(self, call: Call) -> Reply:
        """The counts, at most one second old."""
        event_text = call.path[_BEFORE:-_AFTER]
        found = self._service.availability_cached(event_text)
        if found is None:
            event_id = uuid_of(event_text)
            found = await self._service.availability_json(event_id) if event_id else None
        if found is None:
            raise Refusal(Code.NOT_FOUND)
        return public_json(found)

"""All that other domains may know of the event domain."""

from typing import Protocol
from uuid import UUID


class EventContract(Protocol):
    """Whose event something belongs to."""

    async def organizer_of(self, event_id: UUID) -> UUID | None:
        """The member who organizes the event, whatever its status; None for an unknown event."""
        ...

"""UUIDv7 identifiers (RFC 9562, section 5.7): sortable by time of creation."""

import uuid

import uuid_utils


def new_id() -> uuid.UUID:
    """A fresh UUIDv7 as a standard-library UUID."""
    return uuid.UUID(bytes=uuid_utils.uuid7().bytes)


def new_id_bytes() -> bytes:
    """A fresh UUIDv7 as its 16 raw bytes: the form the reserve path carries."""
    return uuid_utils.uuid7().bytes


def id_text(raw: bytes) -> str:
    """Canonical text of 16 raw bytes; about three times as fast as `str(UUID(bytes=raw))`."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

"""Refusals are types with a stable code; nothing here knows of HTTP.

`korder.platform.http.problem` is the one place that turns them into problem details (RFC 9457),
and `korder.kernel.messages` holds their texts in Korean and English.
"""

from enum import StrEnum


class Code(StrEnum):
    """The closed set of refusal codes. Clients depend on them: never rename one."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    EMAIL_TAKEN = "email_taken"
    SOLD_OUT = "sold_out"
    LIMIT_EXCEEDED = "limit_exceeded"
    SALE_NOT_OPEN = "sale_not_open"
    SALE_CLOSED = "sale_closed"
    INVALID_STATE = "invalid_state"
    RESERVATION_EXPIRED = "reservation_expired"
    INSUFFICIENT_POINTS = "insufficient_points"
    CAPACITY_BELOW_COMMITTED = "capacity_below_committed"
    ALREADY_CHECKED_IN = "already_checked_in"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    QUEUE_PASS_REQUIRED = "queue_pass_required"
    QUEUE_PASS_INVALID = "queue_pass_invalid"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    INTERNAL = "internal"


class Refusal(Exception):
    """A request that is answered with no; it changed nothing.

    `detail_key` picks a more exact text than the code's own from the catalogue; `params` fill it.
    `fields` are (field, message key) pairs for invalid input. `retry_after_s` is set for
    `overloaded` and `rate_limited`.
    """

    def __init__(
        self,
        code: Code,
        *,
        detail_key: str | None = None,
        params: dict[str, object] | None = None,
        fields: tuple[tuple[str, str], ...] = (),
        retry_after_s: int | None = None,
        malformed: bool = False,
    ) -> None:
        super().__init__(code.value)
        self.code = code
        self.detail_key = detail_key
        self.params = params or {}
        self.fields = fields
        self.retry_after_s = retry_after_s
        #: True for a body that is not JSON at all (400 instead of 422).
        self.malformed = malformed


def overloaded(retry_after_s: int = 1) -> Refusal:
    """The refusal for a full queue, a gate that is not loaded, or a part that is down."""
    return Refusal(Code.OVERLOADED, retry_after_s=retry_after_s)

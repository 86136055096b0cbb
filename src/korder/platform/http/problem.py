"""Refusals become problem details (RFC 9457) here and nowhere else."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from korder.kernel.errors import Code, Refusal
from korder.kernel.messages import Language, language_of, text

STATUS: Final[Mapping[Code, int]] = {
    Code.INVALID_REQUEST: 422,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.EMAIL_TAKEN: 409,
    Code.SOLD_OUT: 409,
    Code.LIMIT_EXCEEDED: 409,
    Code.SALE_NOT_OPEN: 409,
    Code.SALE_CLOSED: 409,
    Code.INVALID_STATE: 409,
    Code.RESERVATION_EXPIRED: 409,
    Code.INSUFFICIENT_POINTS: 409,
    Code.CAPACITY_BELOW_COMMITTED: 409,
    Code.ALREADY_CHECKED_IN: 409,
    Code.IDEMPOTENCY_CONFLICT: 422,
    Code.QUEUE_PASS_REQUIRED: 403,
    Code.QUEUE_PASS_INVALID: 403,
    Code.RATE_LIMITED: 429,
    Code.OVERLOADED: 503,
    Code.PAYLOAD_TOO_LARGE: 413,
    Code.INTERNAL: 500,
}

CONTENT_TYPE = b"application/problem+json"
#: A longer Accept-Language is nobody's browser, and must not fill the memory of plain answers.
LANGUAGE_KEPT_BYTES = 128
Headers = list[tuple[bytes, bytes]]


class FieldProblem(msgspec.Struct, frozen=True):
    """What is wrong with one field of the request."""

    field: str
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details; `code` is stable, `title` and `detail` are for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    errors: list[FieldProblem] | None = None


def status_of(refusal: Refusal) -> int:
    """The HTTP status of a refusal."""
    return 400 if refusal.malformed else STATUS[refusal.code]


def problem_of(refusal: Refusal, language: Language, instance: str) -> Problem:
    """The body for a refusal."""
    code = refusal.code.value
    return Problem(
        type=f"urn:korder:problem:{code}",
        title=text(f"{code}.title", language),
        status=status_of(refusal),
        detail=text(refusal.detail_key or code, language, refusal.params),
        code=code,
        instance=instance,
        errors=[FieldProblem(name, text(f"field.{key}", language)) for name, key in refusal.fields]
        or None,
    )


def answer_of(refusal: Refusal, language: Language, instance: str) -> tuple[int, Headers, bytes]:
    """Status, headers (with their lengths) and body of a refusal."""
    body = msgspec.json.encode(problem_of(refusal, language, instance))
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"content-language", language.encode()),
    ]
    status = status_of(refusal)
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % (refusal.retry_after_s or 1)))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="korder"'))
    return status, headers, body


def plain_answer(
    code: str, accept_language: bytes | None, instance: str
) -> tuple[int, Headers, bytes]:
    """`answer_of` a refusal that is nothing but its code: a crowd is refused with the same few.

    The headers are shared: copy them before adding one. The code comes as its plain text, since
    an enum's hash is a Python call.
    """
    if accept_language is not None and len(accept_language) > LANGUAGE_KEPT_BYTES:
        return _plain_answer.__wrapped__(code, accept_language, instance)
    return _plain_answer(code, accept_language, instance)


@lru_cache(maxsize=2048)
def _plain_answer(
    code: str, accept_language: bytes | None, instance: str
) -> tuple[int, Headers, bytes]:
    return answer_of(Refusal(Code(code)), language_of(accept_language), instance)

"""What every Litestar controller uses: bodies, pages, cursors, kept answers, problems."""

import base64
import binascii
from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from litestar import Response
from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter

from korder.kernel.errors import Code, Refusal
from korder.platform.http.problem import STATUS, Problem
from korder.platform.idempotency import Answer

T = TypeVar("T")

LIMIT_DEFAULT, LIMIT_MAX = 20, 100

Limit = Annotated[
    int, QueryParameter(ge=1, le=LIMIT_MAX, description="Most items in the answer.", required=False)
]
Cursor = Annotated[
    str | None,
    QueryParameter(max_length=512, description="`next_cursor` of the page before.", required=False),
]


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of all request bodies: unknown fields are refused."""


class Page(msgspec.Struct, Generic[T]):
    """A page of a list; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None


def encode_cursor(raw: bytes) -> str:
    """Opaque text for the place after which the next page begins."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_cursor(text: str | None) -> bytes | None:
    """The inverse; None for None. Raises Refusal `invalid_request` for anything else."""
    if text is None:
        return None
    try:
        raw = text.encode("ascii")
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise bad_cursor() from None


def bad_cursor() -> Refusal:
    """The refusal for a cursor that we did not make."""
    return Refusal(
        Code.INVALID_REQUEST,
        detail_key="invalid_request.cursor",
        fields=(("cursor", "invalid"),),
    )


def no_nul(**texts: Any) -> None:
    """Raise Refusal when a text has a NUL or half a surrogate pair, which no database stores."""
    bad = [name for name, value in texts.items() if isinstance(value, str) and _unstorable(value)]
    if bad:
        raise Refusal(Code.INVALID_REQUEST, fields=tuple((name, "text") for name in bad))


def _unstorable(value: str) -> bool:
    return "\0" in value or any("\ud800" <= char <= "\udfff" for char in value)


def answered(answer: Answer, *, headers: Mapping[str, str] | None = None) -> Response[Any]:
    """A kept or fresh answer as a response; a kept one says so."""
    given = dict(headers or {})
    if answer.replayed:
        given["Idempotent-Replayed"] = "true"
    return Response(
        content=answer.body,
        status_code=answer.status,
        media_type="application/json",
        headers=given,
    )


def problems(*codes: Code) -> dict[int, ResponseSpec]:
    """`responses=` of a handler: the refusals it may answer with, for OpenAPI."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUS[code], []).append(code.value)
    return {
        status: ResponseSpec(
            data_container=Problem,
            description=", ".join(f"`{name}`" for name in names),
            generate_examples=False,
            media_type="application/problem+json",
        )
        for status, names in by_status.items()
    }


REQUEST_ID_HEADER = ResponseHeader(
    name="X-Request-Id", documentation_only=True, description="The id of this request."
)

"""The Litestar application for everything that is not hot: errors, dependencies, OpenAPI."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import structlog
from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.params import HeaderParameter

from korder.kernel.errors import Code, Refusal, overloaded
from korder.kernel.messages import language_of
from korder.platform.auth import Authenticator, Principal
from korder.platform.http.edge import UNAVAILABLE, ClientGoneError
from korder.platform.http.problem import answer_of
from korder.platform.http.strict import StrictRequest
from korder.platform.idempotency import IdempotencyKey, parse_key

log = structlog.get_logger(__name__)

#: What msgspec says about a value -> the key of our text.
_SAYINGS = (
    (re.compile(r"unknown field"), "unknown_field"),
    (re.compile(r"missing required"), "required"),
    (re.compile(r"Invalid UUID"), "uuid"),
    (re.compile(r"RFC3339|datetime|timezone"), "time"),
    (re.compile(r"length"), "text_length"),
    (re.compile(r"matching regex"), "invalid"),
    (re.compile(r"integer|Integer|>=|<=|out of range"), "range"),
    (re.compile(r"Expected `"), "type"),
)
KeyHeader = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        required=False,
        description="1 to 255 visible ASCII characters: same key and same body, same answer.",
        # Told, not checked here: `parse_key` is the one who knows.
        schema_extra={"min_length": 1, "max_length": 255, "pattern": "^[!-~]+$"},
    ),
]
_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_FIELD_NAME = re.compile(r"(?:unknown|required) field `([^`]{1,100})`")
_FIELD_PATH = re.compile(r"at `\$\.?([^`]{1,200})`")


def build_framework(
    routes: Sequence[Any], authenticator: Authenticator, openapi: OpenAPIConfig
) -> Litestar:
    """The application for these routers; it answers every refusal as problem details."""

    async def require_member(request: Any, handler: BaseRouteHandler) -> None:
        """Who may not ask is told so before anything else that is wrong with the request."""
        if isinstance(handler, HTTPRouteHandler) and request.scope["method"] != "OPTIONS":
            security = handler.resolve_security()
            if security and {} not in security:
                await authenticator.authenticate_fresh(_header(request, b"authorization"))

    async def provide_principal(request: Request[Any, Any, Any]) -> Principal:
        return await authenticator.authenticate_fresh(_header(request, b"authorization"))

    async def provide_key(key: KeyHeader = None) -> IdempotencyKey | None:
        return parse_key(None if key is None else key.encode("latin-1", "replace"))

    return Litestar(
        route_handlers=routes,
        dependencies={
            "principal": Provide(provide_principal),
            "idempotency_key": Provide(provide_key),
        },
        guards=[require_member, read_whole],
        request_class=StrictRequest,
        exception_handlers={Exception: answer_exception},
        openapi_config=openapi,
        logging_config=None,
        request_max_body_size=None,  # the edge counts
        debug=False,
    )


async def read_whole(request: Any, _handler: BaseRouteHandler) -> None:
    """A body that no handler asks for has its bound all the same."""
    if request.scope["method"] in _WITH_BODY:
        await request.body()


def answer_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The one place where an exception becomes an answer."""
    refusal = refusal_of(error)
    if refusal.code is Code.INTERNAL:
        log.error("http.failed", path=request.url.path, exc_info=error)
    status, headers, body = answer_of(
        refusal, language_of(_header(request, b"accept-language")), request.scope["path"]
    )
    named = {name.decode(): value.decode() for name, value in headers}
    del named["content-length"]
    media_type = named.pop("content-type")
    if isinstance(error, MethodNotAllowedException) and error.headers:
        named["Allow"] = error.headers.get("allow", "")
    return Response(content=body, status_code=status, media_type=media_type, headers=named)


_PLAIN: dict[type[Exception], Code] = {
    NotFoundException: Code.NOT_FOUND,
    MethodNotAllowedException: Code.METHOD_NOT_ALLOWED,
}


def refusal_of(error: Exception) -> Refusal:
    """What we say to an exception; `internal` for what nobody foresaw."""
    if isinstance(error, Refusal):
        return error
    if type(error) in _PLAIN:
        return Refusal(_PLAIN[type(error)])
    if isinstance(error, ValidationException | msgspec.MsgspecError):
        return _of_input(error)
    if isinstance(error, UNAVAILABLE):
        log.warning("http.part_unavailable", error=repr(error))
        return overloaded()
    if isinstance(error, HTTPException | ClientGoneError):
        return _of_status(getattr(error, "status_code", 400))
    return Refusal(Code.INTERNAL)


def _of_input(error: ValidationException | msgspec.MsgspecError) -> Refusal:
    """For a body, a path or a query of the wrong shape."""
    if isinstance(error, msgspec.MsgspecError):
        return decode_problem(error)
    fields = _fields_of(error)
    if fields[0][0] == "data":  # the framework's word for a body that is not there at all
        return not_json()
    return Refusal(Code.INVALID_REQUEST, fields=fields)


def _of_status(status: int) -> Refusal:
    """For what the framework itself refuses: a body that does not parse, an odd media type."""
    if status == 400:
        return not_json()
    return Refusal(Code.INVALID_REQUEST if 400 <= status < 500 else Code.INTERNAL)


def _fields_of(error: ValidationException) -> tuple[tuple[str, str], ...]:
    """The fields that Litestar or msgspec complain of, with our texts' keys."""
    found = []
    for item in error.extra if isinstance(error.extra, list) else []:
        message = str(item.get("message", "")) if isinstance(item, dict) else str(item)
        name = str(item.get("key", "")) if isinstance(item, dict) else ""
        found.append(field_problem(message, name))
    return tuple(found) or (field_problem(str(error.detail), ""),)


def field_problem(message: str, name: str = "") -> tuple[str, str]:
    """(field, message key) of one msgspec complaint."""
    named = _FIELD_NAME.search(message)
    path = _FIELD_PATH.search(message)
    parts = [name] if name else []
    if path and not name:
        parts.append(path.group(1).strip("."))
    if named:
        parts.append(named.group(1))
    key = next((key for pattern, key in _SAYINGS if pattern.search(message)), "invalid")
    return ".".join(part for part in parts if part) or "body", key


def decode_problem(error: msgspec.MsgspecError) -> Refusal:
    """The refusal for a body that msgspec cannot decode: 400 when it is no JSON, else 422."""
    if isinstance(error, msgspec.ValidationError):
        return Refusal(Code.INVALID_REQUEST, fields=(field_problem(str(error)),))
    return not_json()


def not_json() -> Refusal:
    """The refusal for a body that does not parse."""
    return Refusal(
        Code.INVALID_REQUEST,
        detail_key="invalid_request.json",
        fields=(("body", "json"),),
        malformed=True,
    )


def _header(request: Request[Any, Any, Any], name: bytes) -> bytes | None:
    for key, value in request.scope["headers"]:
        if key == name:
            return value
    return None

"""The outermost ASGI application: request ids, body bound, hot routes, then the framework.

Hot routes (reserve, availability, public events) are raw: a framework's routing, dependency
injection and response objects would cost several times what the work itself costs. They answer
with the same problem details and take the same tokens as everything else.
"""

import os
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, Protocol, TypeAlias

import structlog

from korder.kernel.errors import Code, Refusal, overloaded
from korder.kernel.messages import Language, language_of
from korder.platform.http.problem import Headers, answer_of, plain_answer
from korder.platform.postgres import UNAVAILABLE as POSTGRES_UNAVAILABLE
from korder.platform.valkey import UNAVAILABLE as VALKEY_UNAVAILABLE

log = structlog.get_logger(__name__)

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Reply: TypeAlias = tuple[int, Headers, bytes]

UNAVAILABLE = (*POSTGRES_UNAVAILABLE, *VALKEY_UNAVAILABLE)

#: Stands for every method that has no handler of its own.
_OTHER = "*"
#: A longer body is not worth its bandwidth.
_DISCARD_MAX_BYTES = 8_388_608
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


class Call:
    """One request on a hot route. `headers` has lower-case names; the last of equal ones wins."""

    __slots__ = ("body_max", "headers", "path", "receive", "scope")

    def __init__(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, body_max: int
    ) -> None:
        self.scope = scope
        self.headers = headers
        self.path: str = scope["path"]
        self.receive = receive
        self.body_max = body_max

    @property
    def language(self) -> Language:
        """What the client reads."""
        return language_of(self.headers.get(b"accept-language"))

    async def body(self) -> bytes:
        """The whole body. Raises Refusal `payload_too_large`, ClientGoneError."""
        body: bytes = b""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            if len(body) > self.body_max:
                raise too_large(self.body_max)
            if not message.get("more_body"):
                return body

    def refuse(self, refusal: Refusal) -> Reply:
        """The reply for a refusal."""
        return answer_of(refusal, self.language, self.path)

    def refuse_plainly(self, code: Code) -> Reply:
        """The reply for a refusal that is nothing but its code."""
        language = self.headers.get(b"accept-language")
        status, headers, body = plain_answer(code._value_, language, self.path)
        return status, headers.copy(), body


class Pending(Protocol):
    """A request that was taken without waiting for its answer; see `protocol.py`."""

    def respond(self, reply: Reply) -> None:
        """Answer it."""
        ...

    def later(self, work: Coroutine[None, None, Reply]) -> None:
        """Answer it with what this work returns, or with the refusal that it raises."""
        ...


#: Takes a request whose body is whole: its reply, True when the pending one gets it, or False.
FastHandler: TypeAlias = Callable[[Call, bytes, Pending], Reply | bool]

#: Answers, or returns None (before it has read the body) to leave the request to the framework.
HotHandler: TypeAlias = Callable[[Call], Awaitable[Reply | None]]


def too_large(most: int) -> Refusal:
    """The refusal for a body over the bound."""
    return Refusal(Code.PAYLOAD_TOO_LARGE, params={"max": most})


#: A template, and its handlers by method.
Route: TypeAlias = tuple[str, dict[str, HotHandler]]
_NOT_HOT: Route = ("", {})


def public_json(body: bytes) -> Reply:
    """200 for everybody: shared caches may keep it for the second that it may be old."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"public, max-age=0, s-maxage=1"),
    ]
    return 200, headers, body


class HotRoutes:
    """Exact paths, and paths with one id in the middle, by method."""

    def __init__(self) -> None:
        self._exact: dict[str, Route] = {}
        self._around: list[tuple[str, str, Route]] = []

    def add(self, method: str, path: str, handler: HotHandler) -> None:
        """`path` is literal but for at most one `{id}`, which stands for one segment."""
        before, marker, after = path.partition("{id}")
        if not marker:
            self._exact.setdefault(path, (path, {}))[1][method] = handler
            return
        for known_before, known_after, (_, handlers) in self._around:
            if (known_before, known_after) == (before, after):
                handlers[method] = handler
                return
        self._around.append((before, after, (path, {method: handler})))

    def only(self, path: str, handler: HotHandler) -> None:
        """GET and HEAD on a path that the framework does not know; whatever else is a 405."""

        async def other(call: Call) -> Reply | None:
            if call.scope["method"] == "HEAD":  # the server leaves the body out
                return await handler(call)
            status, headers, body = call.refuse(Refusal(Code.METHOD_NOT_ALLOWED))
            return status, [*headers, (b"allow", b"GET, HEAD")], body

        self.add("GET", path, handler)
        self.add(_OTHER, path, other)

    def find(self, path: str) -> Route:
        """The template of a path and its handlers by method; empty when it is not hot."""
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        for before, after, route in self._around:
            if path.startswith(before) and path.endswith(after):
                middle = path[len(before) : len(path) - len(after)]
                if middle and "/" not in middle:
                    return route
        return _NOT_HOT


class Edge:
    """Wraps the framework's application. `allow` tells the methods of a path."""

    def __init__(
        self, inner: Asgi, hot: HotRoutes, allow: Callable[[str], bytes], *, body_max: int
    ) -> None:
        self._inner = inner
        self._allow = allow
        self._hot = hot
        self.body_max = body_max
        self._id_prefix = os.urandom(6).hex().encode()
        self._count = 0
        #: Requests by (route template, status), read by the metrics exporter.
        self.answers: Counter[tuple[str, int]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        headers = dict(scope["headers"])
        template, handlers = self._hot.find(scope["path"])
        handler = handlers.get(scope["method"]) or handlers.get(_OTHER)
        request_id = self.request_id(headers.get(b"x-request-id"))
        call = Call(scope, headers, receive, self.body_max)
        reply: Reply | None
        try:
            length = headers.get(b"content-length")
            if length is not None and (not length.isdigit() or int(length) > self.body_max):
                reply = self._too_long(call, length)
            else:
                reply = None if handler is None else await handler(call)
        except ClientGoneError:
            return
        except Exception as error:
            reply = call.refuse(refusal_of(error, call, request_id))
        if reply is None:
            await self._framework(call, request_id, send)
            return
        status, out, body = reply
        self.answers[template or "unread", status] += 1
        out.append((b"x-request-id", request_id))
        await send({"type": "http.response.start", "status": status, "headers": out})
        await send({"type": "http.response.body", "body": body})

    def _too_long(self, call: Call, length: bytes) -> Reply:
        """413, unread; the server throws the body away as it comes and keeps none of it.

        A client in the middle of sending would not see the answer if the connection were cut.
        """
        status, headers, body = call.refuse(too_large(self.body_max))
        if not length.isdigit() or int(length) > _DISCARD_MAX_BYTES:
            headers.append((b"connection", b"close"))
        return status, headers, body

    async def _framework(self, call: Call, request_id: bytes, send: Send) -> None:
        seen = 0
        scope = call.scope

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await call.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            seen += len(message.get("body", b""))
            if seen > self.body_max:
                raise too_large(self.body_max)
            return message

        async def tagged(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"x-request-id", request_id)]
                for name, value in message.get("headers", ()):
                    # The framework knows nothing of the hot routes' methods.
                    headers.append((name, self._allow(call.path) if name == b"allow" else value))
                message = {**message, "headers": headers}
                route = scope.get("path_template") or "unknown"
                self.answers[str(route), message["status"]] += 1
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            await self._inner(scope, counted, tagged)

    def count(self, path: str, status: int) -> None:
        """One answer that was given without coming through here."""
        self.answers[self._hot.find(path)[0], status] += 1

    def request_id(self, given: bytes | None) -> bytes:
        """The client's id if it is a sane one, else one of ours."""
        if given is not None and _SANE_ID.fullmatch(given):
            return given
        self._count += 1
        return b"%b-%x" % (self._id_prefix, self._count)


def refusal_of(error: Exception, call: Call, request_id: bytes) -> Refusal:
    """What we say to an exception of a hot route; `internal` for what nobody foresaw."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UNAVAILABLE):
        log.warning("http.part_unavailable", error=repr(error), path=call.path)
        return overloaded()
    log.error("http.failed", path=call.path, request_id=request_id.decode(), exc_info=error)
    return Refusal(Code.INTERNAL)

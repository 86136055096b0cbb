"""The HTTP/1.1 protocol of the API processes: uvicorn's, with a short way for hot routes.

The ASGI way gives every request a scope, a task, an event and a chain of coroutines, which
together cost more than all that the reserve path does itself. Here a request on a fast route is
handed over as soon as its body is whole, and its reply is written straight to the transport when
it comes. Everything unusual (another HTTP version, pipelining, `Expect`, an upgrade, a body over
the bound, a handler that declines) is left to uvicorn and the ASGI route before anything has been
done, so there is one place for each rule. Measured in docs/adr/0009-fast-protocol.md.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from korder.kernel.errors import Code, Refusal
from korder.platform.http.edge import Call, Edge, FastHandler, Reply, refusal_of

log = structlog.get_logger(__name__)

#: Longest head of a request, give or take one packet: the parser itself has no bound, and would
#: keep a header of gigabytes from anybody.
HEAD_MAX_BYTES = 65_536
_HEAD_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class FastApp(Protocol):
    """What the protocol asks of the application."""

    edge: Edge

    def fast(self, method: bytes, url: bytes) -> FastHandler | None:
        """The handler of a fast route; None for all others, and before the start."""
        ...


class _NoEvent:
    """uvicorn wakes whoever waits for a body; nobody does here."""

    def set(self) -> None:
        return


_NO_EVENT = _NoEvent()


class FastCycle:
    """One request on the short way. To uvicorn it looks like its own request-response cycle."""

    __slots__ = (
        "body",
        "call",
        "disconnected",
        "handler",
        "keep_alive",
        "protocol",
        "request_id",
        "response_complete",
    )
    message_event = _NO_EVENT

    def __init__(self, protocol: "KorderProtocol", handler: FastHandler, call: Call) -> None:
        self.protocol = protocol
        self.handler = handler
        self.call = call
        self.body = b""
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.request_id = protocol.edge.request_id(call.headers.get(b"x-request-id"))

    def respond(self, reply: Reply) -> None:
        """Write the reply; a client that has gone gets none."""
        protocol = self.protocol
        status, headers, body = reply
        protocol.edge.count(self.call.path, status)
        self.response_complete = True
        if self.disconnected or protocol.transport.is_closing():
            return
        lines = [STATUS_LINE[status]]
        for name, value in protocol.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines += (b"x-request-id: ", self.request_id)
        lines.append(b"\r\n\r\n" if self.keep_alive else b"\r\nconnection: close\r\n\r\n")
        lines.append(body)
        protocol.transport.write(b"".join(lines))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()

    def later(self, work: Coroutine[None, None, Reply]) -> None:
        """Answer with what `work` returns, in a task that the server waits for when it stops."""
        task = asyncio.get_running_loop().create_task(self._finish(work))
        self.protocol.tasks.add(task)
        task.add_done_callback(self.protocol.tasks.discard)

    async def _finish(self, work: Coroutine[None, None, Reply]) -> None:
        try:
            reply = await work
        except Exception as error:
            reply = self.call.refuse(refusal_of(error, self.call, self.request_id))
        self.respond(reply)


class KorderProtocol(HttpToolsProtocol):
    """See the module. One per connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        application: FastApp = self.config.app  # type: ignore[assignment]
        self.application = application
        self.fast: FastCycle | None = None
        #: Bytes that came since the parser last had a whole head or a part of a body.
        self.unread = 0

    @property
    def edge(self) -> Edge:
        """Where request ids and counts come from."""
        return self.application.edge

    def data_received(self, data: bytes) -> None:
        """Parse it, unless it only makes a head (or a trailer) longer and longer."""
        self.unread += len(data)
        super().data_received(data)
        if self.unread > HEAD_MAX_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_HEAD_TOO_LONG)
            self.transport.close()

    # -- what the parser says, in this order

    def on_message_begin(self) -> None:
        """A scope is made only for those who need one."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.fast = None

    def on_headers_complete(self) -> None:
        """Take the short way, or uvicorn's."""
        self.unread = 0
        handler = self.application.fast(self.parser.get_method(), self.url)
        if handler is None or not self._is_plain():
            self._leave_to_uvicorn()
            return
        scope = {"path": self.url.decode("ascii")}  # as much of one as a fast handler looks at
        call = Call(scope, dict(self.headers), _never, self.edge.body_max)
        self.fast = self.cycle = FastCycle(self, handler, call)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Collect it, up to the bound."""
        self.unread = 0
        fast = self.fast
        if fast is None:
            super().on_body(body)
            return
        fast.body = fast.body + body if fast.body else body
        if len(fast.body) > self.edge.body_max:
            self._decline(fast)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self.unread = 0
        fast = self.fast
        if fast is None:
            super().on_message_complete()
            return
        self.fast = None
        try:
            taken = fast.handler(fast.call, fast.body, fast)
        except Exception as error:
            taken = fast.call.refuse(refusal_of(error, fast.call, fast.request_id))
        if taken is False:
            self._decline(fast)
            super().on_message_complete()
        elif taken is not True:
            fast.respond(taken)

    # -- which way

    def _is_plain(self) -> bool:
        """Nothing about this request or its connection is unusual."""
        parser = self.parser
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
            and not self.expect_100_continue
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
        )

    def _leave_to_uvicorn(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, and would lose the three
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _decline(self, fast: FastCycle) -> None:
        """Give a request that was begun here to uvicorn, with what has come of its body."""
        self.fast = None
        self.cycle = None  # type: ignore[assignment]
        self._leave_to_uvicorn()
        super().on_body(fast.body)


async def _never() -> Any:
    raise Refusal(Code.INTERNAL)  # the body was handed over whole

"""A small HTTP/1.1 client: one connection, one request at a time, nothing measured twice.

A full client library costs several times what the server spends on a request; on a shared
machine that would measure the client. Requests are bytes made beforehand, answers are parsed by
httptools.
"""

import asyncio
import ssl
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools


class Address(NamedTuple):
    """Where the API is, out of its base URL."""

    host: str
    port: int
    tls: bool
    #: The `Host` header, and the path that a base URL may carry before `/v1`.
    authority: str
    prefix: str

    @classmethod
    def of(cls, base_url: str) -> "Address":
        """Raises ValueError for anything but http and https."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base_url!r} is not an http(s) URL")
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, tls, parts.netloc, parts.path.rstrip("/"))


class Response(NamedTuple):
    """An answer; header names are lower-case, only those kept that a buyer needs."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


_KEPT = frozenset({b"location", b"retry-after", b"connection", b"x-request-id"})


class Connection(asyncio.Protocol):
    """One connection. `ask` raises ConnectionError when it breaks before the answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._waiting: asyncio.Future[Response] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []

    @property
    def open(self) -> bool:
        """False once either side has closed it."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes) -> "asyncio.Future[Response]":
        """Send one request; the future holds its answer."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._body = {}, []
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        """Close at once; whoever waits gets ConnectionError."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError) as error:
            self._fail(ConnectionError(f"unreadable answer: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self._fail(ConnectionResetError(str(error or "closed by the server")))

    # -- httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the answer."""
        name = name.lower()
        if name in _KEPT:
            self._headers[name] = value

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            status = self._parser.get_status_code()
            waiting.set_result(Response(status, self._headers, b"".join(self._body)))
        if self._headers.get(b"connection", b"").lower() == b"close":
            self.close()

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)


async def connect(address: Address, *, timeout_s: float) -> Connection:
    """A new connection; raises OSError or TimeoutError."""
    context = ssl.create_default_context() if address.tls else None
    _, connection = await asyncio.wait_for(
        asyncio.get_running_loop().create_connection(
            Connection, address.host, address.port, ssl=context
        ),
        timeout_s,
    )
    return connection


def request_bytes(
    address: Address,
    method: str,
    path: str,
    token: str,
    body: bytes = b"",
    *,
    idempotency_key: str = "",
) -> bytes:
    """One HTTP/1.1 request as it goes over the wire."""
    head = [
        f"{method} {address.prefix}{path} HTTP/1.1",
        f"Host: {address.authority}",
        f"Authorization: Bearer {token}",
        "Accept: application/json",
    ]
    if idempotency_key:
        head.append(f"Idempotency-Key: {idempotency_key}")
    if body or method != "GET":
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join((*head, "", "")).encode() + body

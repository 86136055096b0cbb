"""Health, metrics, and the API's description: served by every API process."""

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from korder.kernel.errors import Code, Refusal
from korder.platform.http.edge import Call, HotRoutes, Reply

log = structlog.get_logger(__name__)

#: A check that takes longer than this counts as failed.
CHECK_TIMEOUT_S = 1.0
#: Everybody who asks within this time gets the same answer: health is public.
CHECK_FRESH_S = 0.25

#: Raises, or returns False, when its part is not well.
Check = Callable[[], Awaitable[bool]]


def reply(status: int, body: bytes, content_type: bytes = b"application/json") -> Reply:
    """A reply with its type and length."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    return status, headers, body


class Operation:
    """`checks` are the parts of `/health/ready` by name."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        openapi: bytes,
        docs: bytes,
        metrics_networks: str,
    ) -> None:
        self._checks = checks
        self._openapi = openapi
        self._docs = docs
        self._networks = [ipaddress.ip_network(n.strip()) for n in metrics_networks.split(",")]
        self._checked_at = float("-inf")
        self._checking: asyncio.Task[dict[str, bool]] | None = None
        self._parts: dict[str, bool] = {}

    def register(self, routes: HotRoutes) -> None:
        """Add the routes."""
        routes.only("/health/live", self.live)
        routes.only("/health/ready", self.ready)
        routes.only("/metrics", self.metrics)
        routes.only("/openapi.json", self.openapi)
        routes.only("/docs", self.docs)

    async def live(self, _call: Call) -> Reply:
        """200 while the process turns its event loop."""
        return reply(200, b'{"status":"ok"}')

    async def ready(self, _call: Call) -> Reply:
        """200 when every part answers, else 503; each part by name."""
        if time.monotonic() - self._checked_at > CHECK_FRESH_S:
            if self._checking is None:
                self._checking = asyncio.create_task(self._check_all())
            await asyncio.shield(self._checking)
        well = all(self._parts.values())
        body = {
            "status": "ok" if well else "unavailable",
            "parts": {name: "ok" if ok else "unavailable" for name, ok in self._parts.items()},
        }
        status, headers, encoded = reply(200 if well else 503, msgspec.json.encode(body))
        if not well:
            headers.append((b"retry-after", b"1"))
        return status, headers, encoded

    async def metrics(self, call: Call) -> Reply:
        """Prometheus text of all processes, for the networks of `KORDER_METRICS_NETWORKS` only.

        What came through a proxy came from outside, whatever address the proxy has.
        """
        proxied = any(
            name in call.headers for name in (b"x-forwarded-for", b"forwarded", b"x-real-ip")
        )
        if proxied or not self._inside(call):
            raise Refusal(Code.NOT_FOUND)
        registry = CollectorRegistry()
        with contextlib.suppress(ValueError):  # without its folder there is nothing to collect
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        body = await asyncio.to_thread(generate_latest, registry)
        return reply(200, body, CONTENT_TYPE_LATEST.encode())

    async def openapi(self, _call: Call) -> Reply:
        """The OpenAPI document."""
        return reply(200, self._openapi)

    async def docs(self, _call: Call) -> Reply:
        """The documentation page."""
        status, headers, body = reply(200, self._docs, b"text/html; charset=utf-8")
        policy = b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        return status, [*headers, (b"content-security-policy", policy)], body

    def _inside(self, call: Call) -> bool:
        client = call.scope.get("client")
        if not client:
            return False
        try:
            address = ipaddress.ip_address(client[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    async def _check_all(self) -> dict[str, bool]:
        try:
            names = list(self._checks)
            results = await asyncio.gather(*(self._run(name) for name in names))
            self._parts = dict(zip(names, results, strict=True))
            self._checked_at = time.monotonic()
            return self._parts
        finally:
            self._checking = None

    async def _run(self, name: str) -> bool:
        try:
            return await asyncio.wait_for(self._checks[name](), CHECK_TIMEOUT_S)
        except Exception as error:
            log.debug("health.part_failed", part=name, error=repr(error))
            return False

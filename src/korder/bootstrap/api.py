"""Everything in one API process."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, cast

import msgspec
import structlog

from korder.bootstrap import health
from korder.bootstrap.exporter import Exporter
from korder.bootstrap.server import serve
from korder.bootstrap.sessions import SessionWatch
from korder.domains.event import api as event_api
from korder.domains.event.hot import EventRoutes
from korder.domains.event.service import EventService
from korder.domains.reservation import api as reservation_api
from korder.domains.reservation import hot_openapi
from korder.domains.reservation.gate import Gate
from korder.domains.reservation.hot import ReserveRoutes
from korder.domains.reservation.hot_availability import AvailabilityRoutes
from korder.domains.reservation.service import ReservationService
from korder.domains.reservation.snapshots import Snapshots
from korder.domains.user import api as user_api
from korder.domains.user.service import UserService
from korder.platform import valkey
from korder.platform.auth import LEEWAY_S, Authenticator
from korder.platform.background import Background
from korder.platform.http import docs_page, openapi
from korder.platform.http.edge import Asgi, Edge, FastHandler, HotRoutes, Receive, Scope, Send
from korder.platform.http.framework import build_framework
from korder.platform.http.operation import Operation
from korder.platform.http.protocol import KorderProtocol
from korder.platform.invalidation import Invalidation
from korder.platform.postgres import open_pool
from korder.settings import Settings

log = structlog.get_logger(__name__)

#: How often revoked sessions and published keys are asked for; pub/sub is faster, when it works.
REVOCATIONS_S = 1.0
KEYS_S = 5.0
METRICS_S = 1.0
CLOSE_TIMEOUT_S = 5.0


class Api:
    """An ASGI application whose parts are made at start-up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._background = Background()
        self._app: Asgi | None = None
        #: What to close, last made first.
        self._closing: list[Callable[[], Awaitable[Any]]] = []

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve; not a coroutine function itself, which is one frame less for each request."""
        if scope["type"] == "http" and self._app is not None:
            return self._app(scope, receive, send)
        if scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        return send({"type": "websocket.close", "code": 1000})

    def fast(self, method: bytes, url: bytes) -> FastHandler | None:
        """What `KorderProtocol` takes the short way: see its module."""
        if self._app is None:
            return None
        if method == b"POST":
            return self.reserve.begin if url == b"/v1/reservations" else None
        if method == b"GET" and url.startswith(b"/v1/events/"):
            if url.endswith(b"/availability"):
                return self.availability.begin
            return self.public_events.begin if url.count(b"/") == 3 else None
        return None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Make and start the parts. Servers that are not there yet are waited for in background."""
        settings = self._settings
        self.pool = await open_pool(
            settings.database_url, max_size=settings.db_pool_max, name="api"
        )
        self.client = valkey.connect(settings.valkey_url)
        blocking = valkey.connect(settings.valkey_url, socket_timeout_s=10.0)
        self._closing += [blocking.aclose, self.client.aclose, self.pool.close]
        self.invalidation = Invalidation(self.client)
        self._make_domains(blocking)
        self.edge = edge = self._make_edge()
        exporter = Exporter(edge, self.reserve, self.gate, self.reservations, self.events)
        self._background.every(METRICS_S, "metrics", exporter.export)
        await self._start_parts()
        self._app = edge

    def _make_domains(self, blocking: valkey.Client) -> None:
        settings, invalidation = self._settings, self.invalidation
        self.users = UserService(self.pool, invalidation, settings)
        self.authenticator = Authenticator(
            self.users, issuer=settings.issuer, audience=settings.audience
        )
        self.gate = Gate(
            self.client,
            blocking,
            batch_max=settings.batch_max,
            queue_max=settings.queue_max,
            wait_budget_ms=settings.wait_budget_ms,
        )
        self.reservations = ReservationService(
            self.pool,
            self.client,
            lambda event_id: invalidation.publish("event", str(event_id)),
        )
        snapshots = Snapshots(self.pool)
        self.events = EventService(self.pool, self.reservations, self.users, invalidation)
        self.availability = AvailabilityRoutes(self.reservations)
        self.public_events = EventRoutes(self.events)
        self.reserve = ReserveRoutes(self.authenticator, snapshots, self.gate, self.reservations)
        invalidation.on("event", snapshots.drop)
        invalidation.on("event", self.reservations.forget_availability)

    def _make_edge(self) -> Edge:
        framework = build_framework(
            [
                user_api.controllers(self.users, self.authenticator),
                event_api.controllers(self.events, self.authenticator),
                reservation_api.router(self.reservations, self.users, self.events.organizer_of),
            ],
            self.authenticator,
            openapi.config(version("korder")),
        )
        described = openapi.document(framework, hot_openapi.paths(), hot_openapi.schemas())
        hot = HotRoutes()
        hot.add("POST", "/v1/reservations", self.reserve.reserve)
        hot.only("/v1/events/{id}/availability", self.availability.get)
        hot.add("GET", "/v1/events/{id}", self.public_events.get)
        Operation(
            health.checks(self.pool, self.client),
            msgspec.json.encode(described),
            docs_page.render(described),
            self._settings.metrics_networks,
        ).register(hot)
        return Edge(
            cast("Asgi", framework),
            hot,
            openapi.Methods(described).allow,
            body_max=self._settings.body_max_bytes,
        )

    async def _start_parts(self) -> None:
        kept_s = self._settings.access_token_s + LEEWAY_S
        sessions = SessionWatch(self.users, self.authenticator, kept_s)
        self.invalidation.on("session", sessions.told)
        await self.invalidation.start()
        self.gate.start()
        await self._background.once_possible("users.start", self.users.start)
        await self._background.once_possible("sessions", sessions.start)
        self._background.every(KEYS_S, "keys", sessions.refresh_keys)
        self._background.every(REVOCATIONS_S, "revocations", sessions.poll)
        self._closing[:0] = [
            self._background.stop,
            self.gate.stop,
            self.invalidation.stop,
            self.users.stop,
        ]

    async def stop(self) -> None:
        """Stop and close the parts."""
        for close in self._closing:
            try:
                await asyncio.wait_for(close(), CLOSE_TIMEOUT_S)
            except Exception as error:
                log.warning("api.close_failed", error=repr(error))


def run_api(settings: Settings, fd: int) -> None:
    """Serve on a listening socket until SIGTERM; requests in flight are finished."""
    serve(Api(settings), fd, KorderProtocol)

"""The only composition root: which object serves which contract is decided here, nowhere else."""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from typing import Any, cast
from uuid import UUID

import msgspec
import structlog
import uvicorn
import uvloop

from korder.domains.event import api as event_api
from korder.domains.event.hot import EventRoutes
from korder.domains.event.service import EventService
from korder.domains.reservation import api as reservation_api
from korder.domains.reservation import hot_openapi
from korder.domains.reservation.contract import ReservationContract
from korder.domains.reservation.gate import Gate
from korder.domains.reservation.hot import ReserveRoutes
from korder.domains.reservation.record import KEYS
from korder.domains.reservation.service import ReservationService
from korder.domains.reservation.snapshots import Snapshots
from korder.domains.reservation.worker import Worker, as_worker_name
from korder.domains.user import api as user_api
from korder.domains.user.service import UserService
from korder.exporter import Exporter, export_audit
from korder.kernel.clock import utc_now
from korder.platform import valkey
from korder.platform.auth import LEEWAY_S, Authenticator
from korder.platform.background import Background
from korder.platform.http import docs_page, openapi
from korder.platform.http.edge import Asgi, Edge, HotRoutes, Receive, Scope, Send
from korder.platform.http.framework import build_framework
from korder.platform.http.operation import Operation
from korder.platform.invalidation import Invalidation
from korder.platform.postgres import Pool, open_pool
from korder.settings import Settings

log = structlog.get_logger(__name__)

#: How often revoked sessions and published keys are asked for; pub/sub is faster, when it works.
REVOCATIONS_S = 1.0
KEYS_S = 5.0
#: How often what a crash left half told is told again, and old rows are deleted.
REPAIR_S = 1.0
HOUSEKEEPING_S = 600.0
#: How long a stopping API process waits for the requests it has begun.
GRACE_S = 8


class Api:
    """Everything in one API process; an ASGI application whose parts are made at start-up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._background = Background()
        self._app: Asgi | None = None
        self._closing: list[Callable[[], Awaitable[Any]]] = []

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve; not a coroutine function itself, which is one frame less for each request."""
        if scope["type"] == "http" and self._app is not None:
            return self._app(scope, receive, send)
        if scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        return send({"type": "websocket.close", "code": 1000})

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
        pool = await open_pool(settings.database_url, max_size=settings.db_pool_max, name="api")
        client = valkey.connect(settings.valkey_url)
        blocking = valkey.connect(settings.valkey_url, socket_timeout_s=10.0)
        self._closing += [pool.close, client.aclose, blocking.aclose]

        invalidation = Invalidation(client)
        users = UserService(pool, invalidation, settings)
        authenticator = Authenticator(users, issuer=settings.issuer, audience=settings.audience)
        gate = Gate(
            client,
            blocking,
            batch_max=settings.batch_max,
            queue_max=settings.queue_max,
            wait_budget_ms=settings.wait_budget_ms,
        )
        reservations = ReservationService(
            pool, client, lambda event_id: invalidation.publish("event", str(event_id))
        )
        snapshots = Snapshots(pool)
        events = EventService(pool, reservations, users, invalidation)
        reserve = ReserveRoutes(authenticator, snapshots, gate, reservations)
        self.reserve = reserve

        invalidation.on("event", snapshots.drop)
        invalidation.on("event", reservations.forget_availability)
        sessions = SessionWatch(users, authenticator, settings.access_token_s + LEEWAY_S)
        invalidation.on("session", sessions.told)

        framework = build_framework(
            [
                user_api.controllers(users, authenticator),
                event_api.controllers(events, authenticator),
                reservation_api.router(reservations, users, events.organizer_of),
            ],
            authenticator,
            openapi.config(version("korder")),
        )
        described = openapi.document(framework, hot_openapi.paths(), hot_openapi.schemas())
        hot = HotRoutes()
        hot.add("POST", "/v1/reservations", reserve.reserve)
        hot.only("/v1/events/{id}/availability", reserve.availability)
        hot.add("GET", "/v1/events/{id}", EventRoutes(events).get)
        Operation(
            health_checks(pool, client),
            msgspec.json.encode(described),
            docs_page.render(described),
            settings.metrics_networks,
        ).register(hot)
        edge = Edge(
            cast("Asgi", framework),
            hot,
            openapi.Methods(described).allow,
            body_max=settings.body_max_bytes,
        )

        await invalidation.start()
        gate.start()
        await self._background.once_possible("users.start", users.start)
        await self._background.once_possible("keys", partial(refresh_keys, users, authenticator))
        self._background.every(KEYS_S, "keys", partial(refresh_keys, users, authenticator))
        self._background.every(REVOCATIONS_S, "revocations", sessions.poll)
        exporter = Exporter(edge, reserve, gate, reservations, events)
        self._background.every(1.0, "metrics", exporter.export)
        self._closing = [
            self._background.stop,
            gate.stop,
            invalidation.stop,
            users.stop,
            *self._closing,
        ]
        self._app = edge

    async def stop(self) -> None:
        """Stop and close the parts."""
        for close in self._closing:
            try:
                await asyncio.wait_for(close(), 5)
            except Exception as error:
                log.warning("api.close_failed", error=repr(error))


class SessionWatch:
    """Signed-out sessions, told by pub/sub and asked for every second in case it was not."""

    def __init__(self, users: UserService, authenticator: Authenticator, kept_s: float) -> None:
        self._users = users
        self._authenticator = authenticator
        self._kept_s = kept_s
        self._since: Any = None

    def told(self, key: str) -> None:
        """A session was revoked somewhere; `*` when something may have been missed."""
        if key == "*":
            self._since = None
            return
        with contextlib.suppress(ValueError):
            self._authenticator.revoke([UUID(key)], self._kept_s)

    async def poll(self) -> None:
        """Ask for those that are new."""
        found = await self._users.revocations(self._since)
        now = utc_now()
        for item in found:  # a minted token may live longer than an ordinary one
            left_s = (item.access_expires_at - now).total_seconds() + LEEWAY_S
            self._authenticator.revoke([item.session_id], max(self._kept_s, left_s))
        if found:
            self._since = found[-1].revoked_at


async def refresh_keys(users: UserService, authenticator: Authenticator) -> None:
    """Bring the published keys up to date."""
    authenticator.use_keys(await users.public_keys())


def health_checks(pool: Pool, client: valkey.Client) -> dict[str, Callable[[], Awaitable[bool]]]:
    """The parts of `/health/ready` by name."""

    async def postgres() -> bool:
        async with pool.acquire(timeout=1) as conn:
            return bool(await conn.fetchval("SELECT 1") == 1)

    async def valkey_() -> bool:
        return bool(await client.ping())

    async def gate() -> bool:
        pipe = client.pipeline(transaction=False)
        for keys in KEYS:
            pipe.hexists(keys.meta, "generation")
        return all(await pipe.execute())

    async def worker() -> bool:
        async with pool.acquire(timeout=1) as conn:
            return bool(
                await conn.fetchval(
                    "SELECT count(*) = 16 FROM reservations.shard_leases WHERE expires_at > now()"
                )
            )

    return {"postgres": postgres, "valkey": valkey_, "gate": gate, "worker": worker}


def run_api(settings: Settings, fd: int) -> None:
    """Serve on a listening socket until SIGTERM; requests in flight are finished."""
    serve(Api(settings), fd)


def serve(app: Any, fd: int) -> None:
    """Run an ASGI application as every API process does (the benchmarks' ceiling does too)."""
    spare_the_collector()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        interface="asgi3",
        lifespan="on",
        access_log=False,
        log_level="warning",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


def spare_the_collector() -> None:
    """Collect reference cycles a hundred times less often.

    A rush has tens of thousands of young objects in flight (tasks, futures, waiters) that die by
    reference counting alone; looking through them every 700 allocations costs a fifth of the CPU.
    What was made at import never dies and need not be looked at.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def run_worker(settings: Settings, name: str) -> None:
    """Run one reservation worker, and the events' repair, until SIGTERM."""
    uvloop.run(_run_worker(settings, name))


async def _run_worker(settings: Settings, name: str) -> None:
    pool = await open_pool(settings.database_url, max_size=4, name="worker-pool")
    client = valkey.connect(settings.valkey_url)
    publisher = valkey.connect(settings.valkey_url)
    invalidation = Invalidation(publisher)
    users = UserService(pool, invalidation, settings)
    reservations: ReservationContract = ReservationService(
        pool, publisher, lambda event_id: invalidation.publish("event", str(event_id))
    )
    events = EventService(pool, reservations, users, invalidation)
    worker = Worker(settings, client, as_worker_name(name, socket.gethostname()))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    background = Background()
    background.every(REPAIR_S, "events.repair", events.repair)
    if settings.audit_interval_s:
        check = partial(export_audit, pool, settings.sweep_interval_ms)
        background.every(settings.audit_interval_s, "audit", check)
    background.every(HOUSEKEEPING_S, "users.housekeeping", users.housekeeping)
    background.every(HOUSEKEEPING_S, "events.housekeeping", events.housekeeping)
    try:
        await worker.run()
    finally:
        await background.stop()
        for close in (client.aclose, publisher.aclose, pool.close):
            with contextlib.suppress(Exception):
                await asyncio.wait_for(close(), 3)

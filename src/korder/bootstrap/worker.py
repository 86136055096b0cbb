"""Everything in one worker process: the reservation worker, and what is done now and then."""

import asyncio
import contextlib
import signal
import socket
from functools import partial

import uvloop

from korder.bootstrap.exporter import export_audit
from korder.bootstrap.server import spare_the_collector
from korder.domains.event.service import EventService
from korder.domains.reservation.contract import ReservationContract
from korder.domains.reservation.service import ReservationService
from korder.domains.reservation.worker import Worker, as_worker_name
from korder.domains.user.service import UserService
from korder.platform import valkey
from korder.platform.background import Background
from korder.platform.invalidation import Invalidation
from korder.platform.postgres import Pool, open_pool
from korder.settings import Settings

#: How often what a crash left half told is told again, and old rows are deleted.
REPAIR_S = 1.0
HOUSEKEEPING_S = 600.0
POOL_MAX = 4
CLOSE_TIMEOUT_S = 3.0


def run_worker(settings: Settings, name: str) -> None:
    """Run one reservation worker, and the events' repair, until SIGTERM."""
    spare_the_collector()
    uvloop.run(_run_worker(settings, name))


async def _run_worker(settings: Settings, name: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        pool = await open_pool(settings.database_url, max_size=POOL_MAX, name="worker-pool")
        client = valkey.connect(settings.valkey_url)
        publisher = valkey.connect(settings.valkey_url)
        stack.push_async_callback(_close, pool)
        stack.push_async_callback(client.aclose)
        stack.push_async_callback(publisher.aclose)
        background = Background()
        stack.push_async_callback(background.stop)
        _start_chores(background, settings, pool, publisher)
        label = as_worker_name(name, socket.gethostname(), settings.data_dir)
        worker = Worker(settings, client, label)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        await worker.run()


def _start_chores(
    background: Background, settings: Settings, pool: Pool, publisher: valkey.Client
) -> None:
    """Repair, housekeeping and self-audit: what no request waits for."""
    invalidation = Invalidation(publisher)
    users = UserService(pool, invalidation, settings)
    reservations: ReservationContract = ReservationService(
        pool, publisher, lambda event_id: invalidation.publish("event", str(event_id))
    )
    events = EventService(pool, reservations, users, invalidation)
    background.every(REPAIR_S, "events.repair", events.repair)
    background.every(HOUSEKEEPING_S, "users.housekeeping", users.housekeeping)
    background.every(HOUSEKEEPING_S, "events.housekeeping", events.housekeeping)
    if settings.audit_interval_s:
        check = partial(export_audit, pool, settings.sweep_interval_ms)
        background.every(settings.audit_interval_s, "audit", check)


async def _close(pool: Pool) -> None:
    try:
        await asyncio.wait_for(pool.close(), CLOSE_TIMEOUT_S)
    except TimeoutError:
        pool.terminate()

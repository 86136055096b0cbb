"""The running reservation core of one test: real workers and gates on real servers, in-process."""

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

from korder.domains.reservation import invariants, model
from korder.domains.reservation.batch import queries
from korder.domains.reservation.gate import Answer, Gate
from korder.domains.reservation.gate_invariants import check_gate
from korder.domains.reservation.record import REQUEST, Request
from korder.domains.reservation.service import ReservationService
from korder.domains.reservation.worker import Worker
from korder.platform import valkey
from korder.platform.postgres import Pool, open_batch_connection
from korder.platform.valkey import Client
from korder.settings import Settings
from tests.core import Steps, broken_rules, eventually, gate_drift, request_of
from tests.factories import OnSale, make_sale

FAST = Settings(sweep_interval_ms=50, relay_interval_ms=10, reconcile_interval_ms=200, lease_ms=900)


class Core:
    """Starts what a test asks for; `close` waits until quiet, audits, and stops it all."""

    def __init__(self, database_url: str, valkey_url: str, pool: Pool, client: Client) -> None:
        self.settings = replace(FAST, database_url=database_url, valkey_url=valkey_url)
        self.pool = pool
        self.client = client
        #: Every answer that said "held": each must exist afterwards.
        self.promised: dict[bytes, Answer] = {}
        #: Tests that break the rules on purpose say so here.
        self.skip_audit = ""
        self._workers: dict[Worker, asyncio.Task[None]] = {}
        self._gates: list[Gate] = []
        self._clients: list[Client] = []
        self._connections: list[Any] = []

    # -- starting

    def connect(self, *, blocking: bool = False) -> Client:
        """Another Valkey client, closed with the test."""
        client = valkey.connect(
            self.settings.valkey_url, socket_timeout_s=None if blocking else 5.0
        )
        self._clients.append(client)
        return client

    async def worker(self, name: str = "worker-1", *, ready: bool = True, **changes: Any) -> Worker:
        """A worker that runs; with `ready` it holds leases and every gate of them is open."""
        worker = Worker(replace(self.settings, **changes), self.connect(), name)
        self._workers[worker] = asyncio.create_task(worker.run())
        if ready:

            async def loaded() -> bool:
                shards = sorted(worker.leases.held)
                return bool(shards) and not await worker._gate.not_loaded(shards)

            await eventually(loaded)
        return worker

    async def stop_worker(self, worker: Worker) -> None:
        """Stop cleanly and wait for it."""
        worker.stop()
        await self._workers.pop(worker)

    async def kill_worker(self, worker: Worker) -> None:
        """End it where it stands: leases kept, entries unacknowledged, connection dropped."""
        task = self._workers.pop(worker)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if worker._conn is not None:
            worker._conn.terminate()

    async def gate(self, **changes: Any) -> Gate:
        """A gate as one API process has it, listening."""
        sizes = {"batch_max": 512, "queue_max": 20_000, "wait_budget_ms": 5000, **changes}
        gate = Gate(self.connect(), self.connect(blocking=True), **sizes)
        gate.start()
        self._gates.append(gate)
        return gate

    async def steps(self, name: str = "steps", *, opened: bool = True) -> Steps:
        """The path by hand (see `Steps`), with every shard taken and open."""
        conn = await open_batch_connection(self.settings.database_url, name=name)
        self._connections.append(conn)
        steps = Steps(conn, self.connect(), name)
        if opened:
            await steps.open()
        return steps

    def service(self) -> ReservationService:
        """The use cases around the path."""

        async def nobody_to_tell(_: UUID) -> None:
            return None

        return ReservationService(self.pool, self.client, nobody_to_tell)

    # -- acting

    async def sale(self, *capacities: int, **options: Any) -> OnSale:
        """Put an event on sale; returns when a running worker has told the gate."""
        on_sale = make_sale(*capacities, **options)
        await self.put(on_sale)
        return on_sale

    async def put(self, on_sale: OnSale) -> None:
        """Commit a sale as the event domain would, and wait for the relay if there is one."""
        sale, types = on_sale.sale, on_sale.sale.ticket_types
        async with self.pool.acquire() as conn, conn.transaction():
            await queries.put_sale(
                conn,
                event_id=sale.event_id,
                organizer_id=sale.organizer_id,
                shard=on_sale.shard,
                version=sale.version,
                currency=sale.currency,
                hold_seconds=sale.hold_seconds,
                opens_at=sale.opens_at,
                closes_at=sale.closes_at,
                ids=[t.id for t in types],
                positions=list(range(len(types))),
                capacities=[t.capacity for t in types],
                prices=[t.price for t in types],
                limits=[t.max_per_member for t in types],
            )
            rows = queries.announce_types(conn, ticket_types=[t.id for t in types])
            [_ async for _ in rows]
        if self._workers:
            await self.relayed()

    async def relayed(self) -> None:
        """Return when the outbox is empty."""

        async def empty() -> bool:
            return not await self.pool.fetchval("SELECT count(*) FROM reservations.outbox")

        await eventually(empty)

    async def reserve(
        self,
        gate: Gate,
        sale: OnSale,
        member: bytes | None = None,
        quantity: int = 1,
        key: str | None = None,
        *,
        respond_async: bool = False,
        type_raw: bytes | None = None,
    ) -> Answer:
        """One request through a gate to its answer."""
        request = request_of(type_raw or sale.type_raw, member, quantity, key)
        return await self.submit(gate, sale, request, respond_async=respond_async)

    async def submit(
        self, gate: Gate, sale: OnSale, request: Request, *, respond_async: bool = False
    ) -> Answer:
        """The same for a request that the test made."""
        answer = await gate.submit(
            sale.shard, request.id, REQUEST.pack(*request), respond_async=respond_async
        )
        if answer.code == model.HELD:
            self.promised[answer.id] = answer
        return answer

    async def availability(self, sale: OnSale) -> tuple[int, int, int]:
        """(capacity, held, sold) of the first ticket type, from PostgreSQL."""
        row = await self.pool.fetchrow(
            "SELECT capacity, held, sold FROM reservations.inventory WHERE ticket_type_id = $1",
            sale.type_id,
        )
        assert row is not None
        return row["capacity"], row["held"], row["sold"]

    async def rows(self, sale: OnSale) -> list[Any]:
        """The sale's reservations, oldest id first."""
        return await self.pool.fetch(
            "SELECT * FROM reservations.reservations WHERE event_id = $1 ORDER BY id",
            sale.event_id,
        )

    # -- ending

    async def audit(self) -> None:
        """Wait until all is settled, relayed and reconciled; AssertionError with what is wrong.

        Without a worker one is started: whatever a test left behind must heal by itself.
        """
        if not self._workers:
            # Steps hold leases for a minute, and count as workers that want a share.
            await self.pool.execute(
                "UPDATE reservations.shard_leases SET expires_at = '-infinity', owner = ''"
            )
            await self.pool.execute("DELETE FROM reservations.workers")
            await self.worker("healer", ready=False)
        deadline = time.monotonic() + 10
        while wrong := await self._wrong():
            assert time.monotonic() < deadline, "\n".join(wrong)
            await asyncio.sleep(0.05)

    async def _wrong(self) -> list[str]:
        wrong = [*await broken_rules(self.pool), *await gate_drift(self.pool, self.client)]
        ids = [UUID(bytes=rid) for rid in self.promised]
        rows = await self.pool.fetch(
            "SELECT id FROM reservations.reservations"
            " WHERE id = ANY($1::uuid[]) AND status <> 'rejected'",
            ids,
        )
        lost = set(ids) - {row["id"] for row in rows}
        if lost:
            wrong.append(f"{len(lost)} answers promised what does not exist")
        return wrong or await self._findings()

    async def _findings(self) -> list[str]:
        """What the project's own audit says."""
        async with self.pool.acquire() as conn:
            found = [
                *await invariants.check(conn, sweep_interval_ms=self.settings.sweep_interval_ms),
                *await check_gate(conn, self.client),
            ]
        return [str(finding) for finding in found if not finding.ok]

    async def close(self) -> None:
        """Audit, then stop everything, whatever the audit says."""
        try:
            if not self.skip_audit:
                await self.audit()
        finally:
            for worker in list(self._workers):
                await self.stop_worker(worker)
            for gate in self._gates:
                await gate.stop()
            for conn in self._connections:
                conn.terminate()
            for client in self._clients:
                await client.aclose()

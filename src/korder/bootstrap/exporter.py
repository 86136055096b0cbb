"""What Prometheus is told: the hot path's counters once a second, the invariants now and then."""

from collections import Counter as Counts
from typing import Any

import structlog
from prometheus_client import Counter, Gauge

from korder.domains.event import invariants as event_invariants
from korder.domains.event.service import EventService
from korder.domains.reservation import invariants as reservation_invariants
from korder.domains.reservation import metrics
from korder.domains.reservation.gate import Gate
from korder.domains.reservation.hot import ReserveRoutes
from korder.domains.reservation.service import ReservationService
from korder.domains.user import invariants as user_invariants
from korder.platform.http.edge import Edge
from korder.platform.postgres import Pool

log = structlog.get_logger(__name__)

REQUESTS = Counter(
    "korder_http_requests_total", "Answers by route template and status.", ["route", "status"]
)
CACHE = Counter(
    "korder_cache_lookups_total",
    "Look-ups of the caches in process memory; the hit rate is hit / (hit + miss).",
    ["cache", "result"],
)
INVARIANT = Gauge(
    "korder_invariant_failed",
    "Rows that break an invariant of docs/scarcity.md, when it was last checked.",
    ["invariant", "name"],
    multiprocess_mode="livemostrecent",
)


async def export_audit(pool: Pool, sweep_interval_ms: int) -> None:
    """Check the invariants of the rows in one snapshot, and say what was found."""
    async with (
        pool.acquire(timeout=5) as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        findings = [
            *await reservation_invariants.check(conn, sweep_interval_ms=sweep_interval_ms),
            *await event_invariants.check(conn),
            *await user_invariants.check(conn),
        ]
    for finding in findings:
        INVARIANT.labels(str(finding.invariant), finding.name).set(finding.failed)
        if not finding.ok:
            log.error(
                "audit.failed",
                invariant=finding.invariant,
                name=finding.name,
                failed=finding.failed,
                examples=finding.examples,
            )


class Exporter:
    """Adds what has come since the last call to this process's metrics."""

    def __init__(
        self,
        edge: Edge,
        reserve: ReserveRoutes,
        gate: Gate,
        reservations: ReservationService,
        events: EventService,
    ) -> None:
        self._edge = edge
        self._reserve = reserve
        self._gate = gate
        self._reservations = reservations
        self._events = events
        self._told: Counts[tuple[Any, ...]] = Counts()

    async def export(self) -> None:
        """Bring the metrics up to date."""
        for (route, status), count in list(self._edge.answers.items()):
            self._add(REQUESTS.labels(route, str(status)), ("http", route, status), count)
        for kind, count in list(self._reserve.replies.counts.items()):
            self._add(metrics.ANSWERS.labels(kind), ("answer", kind), count)
        self._add(metrics.GATE_BATCHES, ("batches",), self._gate.batches)
        self._add(metrics.GATE_REQUESTS, ("batched",), self._gate.batched)
        for cache, source in (("availability", self._reservations), ("event", self._events)):
            self._add(CACHE.labels(cache, "hit"), (cache, "hit"), source.cache_hits)
            self._add(CACHE.labels(cache, "miss"), (cache, "miss"), source.cache_misses)

    def _add(self, metric: Counter, key: tuple[Any, ...], count: int) -> None:
        if count > self._told[key]:
            metric.inc(count - self._told[key])
            self._told[key] = count

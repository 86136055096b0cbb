"""Plain counters of the hot path become Prometheus metrics once a second, not once a request."""

from collections import Counter as Counts
from typing import Any

from prometheus_client import Counter

from korder.domains.event.service import EventService
from korder.domains.reservation import metrics
from korder.domains.reservation.gate import Gate
from korder.domains.reservation.hot import ReserveRoutes
from korder.domains.reservation.service import ReservationService
from korder.platform.http.edge import Edge

REQUESTS = Counter(
    "korder_http_requests_total", "Answers by route template and status.", ["route", "status"]
)
CACHE = Counter(
    "korder_cache_lookups_total",
    "Look-ups of the caches in process memory; the hit rate is hit / (hit + miss).",
    ["cache", "result"],
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
        for kind, count in list(self._reserve.answers.items()):
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

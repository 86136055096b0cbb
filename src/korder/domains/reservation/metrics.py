"""What the reservation domain tells Prometheus. Bumped per batch, never per request."""

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Sequence

    from korder.domains.reservation.gatekeeper import Gatekeeper

ANSWERS = Counter(
    "korder_reserve_answers_total", "Answers of POST /v1/reservations by kind.", ["answer"]
)
WAIT = Histogram(
    "korder_reserve_wait_seconds",
    "From the gate to the verdict: the first request of each block of verdicts.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
GATE_BATCHES = Counter("korder_gate_batches_total", "Calls of the gate's reserve function.")
GATE_REQUESTS = Counter("korder_gate_requests_total", "Requests put before the gate.")
DECIDED = Counter("korder_worker_requests_total", "Requests decided by the worker.")
BATCH = Histogram(
    "korder_worker_batch_seconds",
    "Length of one worker transaction.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
BATCH_SIZE = Histogram(
    "korder_worker_batch_requests",
    "Requests in one worker transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
)
EXPIRED = Counter("korder_holds_expired_total", "Holds ended by the sweeper.")
DRIFT = Counter("korder_gate_drift_total", "Ticket types whose stock at the gate was repaired.")
REBUILDS = Counter("korder_gate_rebuilds_total", "Shards whose gate was rebuilt.")
DEAD_LETTERS = Counter("korder_dead_letters_total", "Entries put among the dead letters.")
BACKLOG = Gauge(
    "korder_queue_requests", "Accepted requests without a verdict.", multiprocess_mode="livesum"
)


def observe_batch(requests: int, seconds: float) -> None:
    """One worker transaction has committed."""
    DECIDED.inc(requests)
    BATCH.observe(seconds)
    BATCH_SIZE.observe(requests)


async def observe_backlog(gate: "Gatekeeper", shards: "Sequence[int]") -> None:
    """Sample the queue depth."""
    BACKLOG.set(await gate.backlog(shards))

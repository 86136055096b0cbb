"""Settings that parse, each by itself, and still make no sense."""

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

from korder.cli.checks import Check, ok, problem, warning
from korder.domains.reservation.worker import READ_BLOCK_MS
from korder.platform.logs import FORMATS, LEVELS
from korder.settings import Settings

#: May be zero, which then has a meaning of its own.
ZERO_ALLOWED = frozenset({"api_processes", "audit_interval_s", "hash_concurrency", "port"})
#: The shortest hold that an event may ask for, in ms.
SHORTEST_HOLD_MS = 5000
CONTRACT_BODY_BYTES = 65_536


class Rule(NamedTuple):
    """A rule that is broken."""

    broken: bool
    grave: bool
    found: str
    mend: str


def look(settings: Settings) -> Iterator[Check]:
    """One check for each broken rule, or one that says that there is none."""
    broken = [rule for rule in (*unusable(settings), *rules(settings)) if rule.broken]
    if not broken:
        yield ok("settings", "they go together")
    for rule in broken:
        yield (problem if rule.grave else warning)("settings", rule.found, rule.mend)


def unusable(settings: Settings) -> Iterator[Rule]:
    """What nothing can run with; `korder up` does not start on it.

    Every number is above zero, unless zero means something.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        if not isinstance(value, int):
            continue
        least = 0 if item.name in ZERO_ALLOWED else 1
        env = item.metadata["env"]
        yield Rule(value < least, True, f"{env} is {value}", f"Set {env} to {least} or more.")
    yield Rule(
        settings.port > 65_535, True, f"KORDER_PORT is {settings.port}", "Ports end at 65535."
    )
    yield Rule(
        not _networks(settings.metrics_networks),
        True,
        f"KORDER_METRICS_NETWORKS is {settings.metrics_networks!r}",
        "Write networks as 10.0.0.0/8, separated by commas, with no bit set behind the prefix.",
    )


def rules(s: Settings) -> tuple[Rule, ...]:
    """What must go together. `grave`: the contract or the safety of the sale is at stake."""
    cores = os.cpu_count() or 1
    return (
        Rule(
            s.log_format not in FORMATS or s.log_level not in LEVELS,
            True,
            f"log format {s.log_format!r}, level {s.log_level!r}",
            f"One of {', '.join(FORMATS)} and one of {', '.join(LEVELS)}.",
        ),
        Rule(
            not s.issuer or not s.audience,
            True,
            "KORDER_ISSUER or KORDER_AUDIENCE is empty",
            "Give both a name: tokens of another system would pass.",
        ),
        Rule(
            s.batch_max > s.queue_max,
            True,
            f"a micro-batch ({s.batch_max}) is larger than the queue ({s.queue_max})",
            "Raise KORDER_QUEUE_MAX or lower KORDER_BATCH_MAX.",
        ),
        Rule(
            s.worker_batch_max < s.batch_max,
            False,
            f"a worker transaction ({s.worker_batch_max}) is smaller than a micro-batch "
            f"({s.batch_max}), which is never split",
            "Raise KORDER_WORKER_BATCH_MAX.",
        ),
        Rule(
            s.lease_ms < 40 * READ_BLOCK_MS,
            True,
            f"a lease of {s.lease_ms} ms is lost in any pause of the worker",
            "Set KORDER_LEASE_MS to 1000 or more (3000 is well tried).",
        ),
        Rule(
            s.lease_ms > 10_000,
            False,
            f"a lease of {s.lease_ms} ms: a worker lost with its machine is replaced that late",
            "Set KORDER_LEASE_MS to 3000: the sale must go on within 10 s.",
        ),
        Rule(
            s.wait_budget_ms < 100,
            False,
            f"a wait budget of {s.wait_budget_ms} ms turns most answers into 202",
            "Set KORDER_WAIT_BUDGET_MS to a second or more.",
        ),
        Rule(
            s.wait_budget_ms >= 30_000,
            False,
            f"a wait budget of {s.wait_budget_ms} ms: proxies and clients give up before",
            "Set KORDER_WAIT_BUDGET_MS to 5000.",
        ),
        Rule(
            s.relay_interval_ms > 500,
            True,
            f"released tickets wait {s.relay_interval_ms} ms for the relay",
            "Set KORDER_RELAY_INTERVAL_MS to 500 or less: they must be free within 1 s.",
        ),
        Rule(
            s.sweep_interval_ms >= SHORTEST_HOLD_MS,
            False,
            f"a sweep every {s.sweep_interval_ms} ms is longer than the shortest hold (5 s)",
            "Set KORDER_SWEEP_INTERVAL_MS to 500.",
        ),
        Rule(
            s.reconcile_interval_ms > 10_000,
            False,
            f"a wrong stock at the gate stays for {s.reconcile_interval_ms} ms",
            "Set KORDER_RECONCILE_INTERVAL_MS to 3000.",
        ),
        Rule(
            s.refresh_token_s <= s.access_token_s,
            True,
            "a refresh token ends before the access token that it renews",
            "Raise KORDER_REFRESH_TOKEN_SECONDS.",
        ),
        Rule(
            s.access_token_s > 86_400,
            False,
            f"access tokens live {s.access_token_s // 3600} h",
            "Set KORDER_ACCESS_TOKEN_SECONDS to 900; a refresh token is there for the rest.",
        ),
        Rule(
            s.api_processes > cores,
            False,
            f"{s.api_processes} API processes on {cores} cores",
            "Leave KORDER_API_PROCESSES at 0.",
        ),
        Rule(
            s.hash_concurrency > cores,
            False,
            f"{s.hash_concurrency} passwords hashed at once on {cores} cores",
            "Leave KORDER_HASH_CONCURRENCY at 0.",
        ),
        Rule(
            s.body_max_bytes != CONTRACT_BODY_BYTES,
            False,
            f"bodies up to {s.body_max_bytes} bytes; the contract says 65536",
            "Leave KORDER_BODY_MAX_BYTES at its default.",
        ),
        Rule(
            bool(s.database_url) != bool(s.valkey_url),
            False,
            "one server is embedded, the other is named by its URL",
            "Fine for a trial; with several machines both must be named.",
        ),
    )


def _networks(text: str) -> bool:
    """Whether these are networks, as `korder.platform.http.operation` reads them."""
    try:
        return bool([ipaddress.ip_network(part.strip()) for part in text.split(",")])
    except ValueError:
        return False

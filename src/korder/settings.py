"""The only reader of the environment. Every setting has a unit, a default and a sentence.

`korder up --help`, `docs/settings.md` and the code all come from the one table below.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


def _setting(default: Any, env: str, doc: str, unit: str = "") -> Any:
    return field(default=default, metadata={"env": env, "doc": doc, "unit": unit})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be set from outside; see `korder up --help`."""

    host: str = _setting("127.0.0.1", "KORDER_HOST", "Address the API listens on.")
    port: int = _setting(8000, "KORDER_PORT", "Port the API listens on.")
    api_processes: int = _setting(
        0, "KORDER_API_PROCESSES", "API processes; 0 means one per two cores, at least one."
    )
    data_dir: Path = _setting(
        Path(".korder"), "KORDER_DATA_DIR", "Folder of the embedded servers' data and of run files."
    )
    database_url: str = _setting(
        "", "DATABASE_URL", "PostgreSQL to use; empty starts the embedded one."
    )
    valkey_url: str = _setting("", "VALKEY_URL", "Valkey to use; empty starts the embedded one.")
    log_format: str = _setting("console", "KORDER_LOG_FORMAT", "console or json.")
    log_level: str = _setting("info", "KORDER_LOG_LEVEL", "debug, info, warning or error.")
    wait_budget_ms: int = _setting(
        5000, "KORDER_WAIT_BUDGET_MS", "How long a reservation waits for its verdict.", "ms"
    )
    batch_max: int = _setting(
        512, "KORDER_BATCH_MAX", "Most requests in one call to the gate.", "requests"
    )
    queue_max: int = _setting(
        20_000,
        "KORDER_QUEUE_MAX",
        "Most accepted and undecided requests per shard; past it the gate answers 503.",
        "requests",
    )
    worker_batch_max: int = _setting(
        2000, "KORDER_WORKER_BATCH_MAX", "Most requests in one worker transaction.", "requests"
    )
    sweep_interval_ms: int = _setting(
        500, "KORDER_SWEEP_INTERVAL_MS", "How often expired holds are swept.", "ms"
    )
    relay_interval_ms: int = _setting(
        50, "KORDER_RELAY_INTERVAL_MS", "How often released tickets go back to the gate.", "ms"
    )
    reconcile_interval_ms: int = _setting(
        3000, "KORDER_RECONCILE_INTERVAL_MS", "How often the gate is compared with the truth.", "ms"
    )
    lease_ms: int = _setting(
        3000, "KORDER_LEASE_MS", "How long a worker's lease of a shard lasts unrenewed.", "ms"
    )
    db_pool_max: int = _setting(
        8, "KORDER_DB_POOL_MAX", "Most PostgreSQL connections per process.", "connections"
    )
    access_token_s: int = _setting(
        900, "KORDER_ACCESS_TOKEN_SECONDS", "Life of an access token.", "s"
    )
    refresh_token_s: int = _setting(
        1_209_600, "KORDER_REFRESH_TOKEN_SECONDS", "Life of a refresh token.", "s"
    )
    issuer: str = _setting("korder", "KORDER_ISSUER", "`iss` of the tokens.")
    audience: str = _setting("korder-api", "KORDER_AUDIENCE", "`aud` of the access tokens.")
    hash_concurrency: int = _setting(
        0, "KORDER_HASH_CONCURRENCY", "Passwords hashed at once per process; 0 means one per core."
    )
    hash_queue_max: int = _setting(
        64, "KORDER_HASH_QUEUE_MAX", "Sign-ins that may wait for a hash; past it 503.", "requests"
    )
    metrics_networks: str = _setting(
        "127.0.0.0/8,::1/128",
        "KORDER_METRICS_NETWORKS",
        "Networks that may read /metrics (never through a proxy), separated by commas.",
    )
    audit_interval_s: int = _setting(
        300, "KORDER_AUDIT_INTERVAL_SECONDS", "How often the invariants are metrics; 0: never.", "s"
    )
    body_max_bytes: int = _setting(
        65_536, "KORDER_BODY_MAX_BYTES", "Largest request body; past it 413.", "bytes"
    )

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, **flags: Any) -> "Settings":
        """Settings from flags (not None), then the environment, then the defaults.

        Raises ValueError that names the variable when a value does not parse.
        """
        source = os.environ if env is None else env
        values: dict[str, Any] = {}
        for item in fields(cls):
            if flags.get(item.name) is not None:
                values[item.name] = flags[item.name]
            elif source.get(item.metadata["env"]):
                values[item.name] = _parse(item.metadata["env"], item.default, source)
        return cls(**values)

    def environment(self) -> dict[str, str]:
        """The same settings as environment variables, for child processes."""
        return {f.metadata["env"]: str(getattr(self, f.name)) for f in fields(self)}


def _parse(name: str, default: Any, source: Mapping[str, str]) -> Any:
    text = source[name]
    try:
        return type(default)(text) if not isinstance(default, Path) else Path(text)
    except ValueError:
        raise ValueError(f"{name}={text!r}: expected {type(default).__name__}") from None

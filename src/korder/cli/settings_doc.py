"""docs/settings.md, out of the one table in `korder.settings`: `make docs` writes it anew.

A test compares the page with what this prints, so that the page cannot fall behind.
"""

from dataclasses import Field, fields
from typing import Any

from korder.settings import Settings

#: Title -> settings, in the order of the page. A setting belongs to exactly one group.
GROUPS: dict[str, tuple[str, ...]] = {
    "Where it listens": ("host", "port", "api_processes", "body_max_bytes"),
    "Data and servers": ("data_dir", "database_url", "valkey_url", "db_pool_max"),
    "Logs and metrics": ("log_format", "log_level", "metrics_networks", "audit_interval_s"),
    "The reserve path": ("wait_budget_ms", "batch_max", "queue_max", "worker_batch_max"),
    "The worker's rounds": (
        "sweep_interval_ms",
        "relay_interval_ms",
        "reconcile_interval_ms",
        "lease_ms",
    ),
    "Tokens and passwords": (
        "access_token_s",
        "refresh_token_s",
        "issuer",
        "audience",
        "hash_concurrency",
        "hash_queue_max",
    ),
}

_INTRODUCTION = """\
# Settings

<!-- Written by `make docs` from src/korder/settings.py. Change it there. -->

Every setting has a flag (of `korder up`; the other commands take those that concern them) and an
environment variable. A flag wins over the variable, the variable over the default. A value that
does not parse ends the command with status 2 and the name of the variable.

Not a setting, but read too: `KORDER_ADMIN_PASSWORD`, the password for `korder admin create` where
a flag would show it to everybody who lists processes.
"""

_HEAD = """\
| Setting | Flag | Environment | Unit | Default | What it does |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page as Markdown. Raises ValueError for a setting in no group, or in two."""
    known = {item.name: item for item in fields(Settings)}
    grouped = [name for names in GROUPS.values() for name in names]
    if sorted(grouped) != sorted(known):
        odd = sorted(set(known) ^ set(grouped)) or "one stands twice"
        raise ValueError(f"settings_doc.GROUPS and korder.settings disagree: {odd}")
    tables = [
        f"## {title}\n\n{_HEAD}" + "".join(_row(known[name]) for name in names)
        for title, names in GROUPS.items()
    ]
    return "\n".join([_INTRODUCTION, *tables])


def _row(item: "Field[Any]") -> str:
    default = f"`{item.default}`" if item.default != "" else "none"
    cells = (
        f"`{item.name}`",
        f"`--{item.name.replace('_', '-')}`",
        f"`{item.metadata['env']}`",
        item.metadata["unit"] or "–",
        default,
        item.metadata["doc"].replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    print(page(), end="")

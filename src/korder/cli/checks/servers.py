"""The servers: PostgreSQL and Valkey as they run now, without changing anything."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
from redis.exceptions import ResponseError

from korder.cli.checks import Check, ok, problem, warning
from korder.cli.system import api_processes
from korder.domains.reservation.model import OPENING_SKEW_US
from korder.platform import migrate, postgres, valkey
from korder.settings import Settings

POSTGRES_MIN, VALKEY_MIN = 15, 7
#: Of every process beside its pool: worker, migrations, a person with psql.
CONNECTIONS_RESERVE = 10
SKEW_WARN_S = 0.25
MEMORY_FULL = 0.8
#: Durability: with one of these off a 201 may be lost with the machine.
MUST_BE_ON = ("fsync", "synchronous_commit", "full_page_writes")


def masked(url: str) -> str:
    """The URL without password and without its other parameters."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for what is no number
    except ValueError:
        return "(a URL that cannot be read)"
    host = parts.hostname or parse_qs(parts.query).get("host", [""])[0]
    where = f"{host}:{parts.port}" if parts.port and parts.hostname else host
    user = f"{parts.username}@" if parts.username else ""
    secret = f"{parts.username or ''}:***@" if parts.password else user
    return f"{parts.scheme}://{secret}{where}{parts.path}"


async def look_postgres(url: str, settings: Settings) -> AsyncIterator[Check]:
    """All checks of PostgreSQL."""
    try:
        conn = await asyncpg.connect(url, timeout=5, command_timeout=5)
    except (*postgres.UNAVAILABLE, asyncpg.PostgresError, ValueError) as error:
        mend = "Start it, or mend DATABASE_URL."
        yield problem("PostgreSQL", f"{masked(url)}: {_words(error)}", mend)
        return
    try:
        number = int(await conn.fetchval("SHOW server_version_num")) // 10_000
        text = f"{masked(url)}, version {await conn.fetchval('SHOW server_version')}"
        if number < POSTGRES_MIN:
            yield problem("PostgreSQL", text, f"Use version {POSTGRES_MIN} or newer.")
        else:
            yield ok("PostgreSQL", text)
        yield await _durable(conn)
        yield await _connections(conn, settings)
        yield await _clock(conn)
    finally:
        await conn.close()
    yield await _schema(url)


async def _durable(conn: Any) -> Check:
    values = {name: await conn.fetchval("SELECT current_setting($1)", name) for name in MUST_BE_ON}
    off = [f"{name} = {value}" for name, value in values.items() if value in ("off", "local")]
    if off:
        mend = "Set them to on: else a crash of the machine may lose what a 201 promised."
        return problem("durability", ", ".join(off), mend)
    return ok("durability", ", ".join(f"{name} {value}" for name, value in values.items()))


async def _connections(conn: Any, settings: Settings) -> Check:
    most = int(await conn.fetchval("SHOW max_connections"))
    wanted = api_processes(settings) * settings.db_pool_max + CONNECTIONS_RESERVE
    text = f"max_connections {most}, {wanted} wanted"
    if most < wanted:
        mend = "Raise max_connections, or lower KORDER_DB_POOL_MAX or KORDER_API_PROCESSES."
        return problem("connections", text, mend)
    return ok("connections", text)


async def _clock(conn: Any) -> Check:
    """Skew against the middle of the round trip."""
    began = time.time()
    theirs: datetime = await conn.fetchval("SELECT clock_timestamp()")
    ended = time.time()
    skew_s = theirs.astimezone(UTC).timestamp() - (began + ended) / 2
    unsure_s = (ended - began) / 2
    text = f"PostgreSQL is {abs(skew_s) * 1000:.0f} ms {'ahead' if skew_s > 0 else 'behind'}"
    mend = "Let both machines follow the same time server (chrony, systemd-timesyncd)."
    if abs(skew_s) - unsure_s > OPENING_SKEW_US / 1e6:
        return problem("clock", text, mend)
    if abs(skew_s) - unsure_s > SKEW_WARN_S:
        return warning("clock", text, mend)
    return ok("clock", text)


async def _schema(url: str) -> Check:
    try:
        pending = await migrate.pending(url)
    except (migrate.MigrationError, *postgres.UNAVAILABLE, asyncpg.PostgresError) as error:
        return problem("schema", _words(error), "See docs/operations.md, migrations.")
    if pending:
        return problem("schema", f"pending: {', '.join(pending)}", "Run `korder migrate`.")
    return ok("schema", "up to date")


async def look_valkey(url: str) -> AsyncIterator[Check]:
    """All checks of Valkey."""
    try:
        client = valkey.connect(url)
    except ValueError as error:
        yield problem("Valkey", f"{masked(url)}: {_words(error)}", "Mend VALKEY_URL.")
        return
    try:
        info = await client.info()
        config = await _config(client)
    except Exception as error:  # a wrong password is an error of yet another kind
        yield problem("Valkey", f"{masked(url)}: {_words(error)}", "Start it, or mend VALKEY_URL.")
        return
    finally:
        await client.aclose()
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    text = f"{masked(url)}, version {version}"
    if int(version.split(".", maxsplit=1)[0]) < VALKEY_MIN:
        yield problem("Valkey", text, "Use Valkey (Functions came with version 7).")
    else:
        yield ok("Valkey", text)
    for check in (_eviction(info, config), _append_only(info), _memory(info)):
        yield check


async def _config(client: Any) -> dict[str, str]:
    """`maxmemory-policy` where CONFIG is allowed; managed servers often forbid it."""
    try:
        found = await client.config_get("maxmemory-policy")
    except ResponseError:
        return {}
    return {_text(key): _text(value) for key, value in found.items()}


def _eviction(info: dict[str, Any], config: dict[str, str]) -> Check:
    policy = config.get("maxmemory-policy") or str(info.get("maxmemory_policy", "unknown"))
    if policy == "noeviction":
        return ok("eviction", policy)
    mend = "Set maxmemory-policy to noeviction: an evicted counter closes the gate."
    return (warning if policy == "unknown" else problem)("eviction", policy, mend)


def _append_only(info: dict[str, Any]) -> Check:
    if info.get("aof_enabled"):
        return ok("append-only file", "on")
    mend = "Set appendonly yes: else a restart loses what waits in the queue (never a 201)."
    return warning("append-only file", "off", mend)


def _memory(info: dict[str, Any]) -> Check:
    used = int(info.get("used_memory", 0))
    most = int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0))
    text = f"{used / (1 << 20):,.0f} of {most / (1 << 20):,.0f} MiB used"
    if most and used > MEMORY_FULL * most:
        return warning("Valkey memory", text, "Give it more memory before the next sale.")
    return ok("Valkey memory", text)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _words(error: BaseException) -> str:
    """Never the words of a ValueError: they quote the part of the URL that does not parse."""
    if isinstance(error, ValueError):
        return "the URL does not parse"
    return str(error) or type(error).__name__

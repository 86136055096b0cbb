"""Schema migrations: plain SQL files in `korder/migrations/<domain>/NNNN-name.sql`.

Each file runs once, in a transaction of its own, in the order of its name within its domain.
A session advisory lock lets one runner work at a time and ends with its connection, so a killed
runner locks nobody out. Why no migration library: docs/adr/0002-own-migration-runner.md.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import asyncpg

_FOLDER = Path(__file__).parent.parent / "migrations"
#: Any constant will do, as long as every version of this program uses the same.
_ADVISORY_LOCK = 0x6B6F72646572
_LOCK_ATTEMPTS = 5

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    domain     text NOT NULL,
    name       text NOT NULL,
    checksum   bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (domain, name)
)
"""


class MigrationError(Exception):
    """A migration cannot be run; the message says which one, why, and what to do."""


@dataclass(frozen=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its bytes."""

    domain: str
    name: str
    sql: str
    checksum: bytes

    @property
    def title(self) -> str:
        """`domain/name`, as reported."""
        return f"{self.domain}/{self.name}"


async def migrate(database_url: str, folder: Path = _FOLDER) -> list[str]:
    """Bring the database up to date; returns what was applied, e.g. `["user/0001-initial"]`.

    Raises MigrationError when a file that was applied has changed since, or when its SQL fails
    (that file is then undone as a whole); connection errors pass through.
    """
    conn = await asyncpg.connect(database_url, timeout=5)
    try:
        await conn.execute("SELECT pg_advisory_lock($1)", _ADVISORY_LOCK)
        await conn.execute(_HISTORY)
        todo = _check(read(folder), await _applied(conn))
        for migration in todo:
            await _apply(conn, migration)
        return [migration.title for migration in todo]
    finally:
        await conn.close()


async def pending(database_url: str, folder: Path = _FOLDER) -> list[str]:
    """What `migrate` would apply; changes nothing. Raises as `migrate` does."""
    conn = await asyncpg.connect(database_url, timeout=5)
    try:
        known = await conn.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
        applied = await _applied(conn) if known else {}
        return [migration.title for migration in _check(read(folder), applied)]
    finally:
        await conn.close()


def read(folder: Path = _FOLDER) -> list[Migration]:
    """All migrations on disk, domains in alphabetical order, each in the order of its names."""
    found = []
    for path in sorted(folder.glob("*/[0-9]*.sql")):
        raw = path.read_bytes()
        digest = hashlib.sha256(raw).digest()
        found.append(Migration(path.parent.name, path.stem, raw.decode(), digest))
    return found


def _check(files: list[Migration], applied: dict[tuple[str, str], bytes]) -> list[Migration]:
    """The files not applied yet; raises when history and files disagree."""
    for migration in files:
        known = applied.get((migration.domain, migration.name))
        if known is not None and known != migration.checksum:
            raise MigrationError(
                f"{migration.title} was changed after it had been applied. Put it back as it was "
                "and write a new file for the change."
            )
    return [m for m in files if (m.domain, m.name) not in applied]


async def _applied(conn: "asyncpg.Connection[asyncpg.Record]") -> dict[tuple[str, str], bytes]:
    rows = await conn.fetch("SELECT domain, name, checksum FROM schema_migrations")
    return {(row["domain"], row["name"]): row["checksum"] for row in rows}


async def _apply(conn: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    """Run one file, waiting for locks in short attempts so that traffic passes between them."""
    for attempt in range(1, _LOCK_ATTEMPTS + 1):
        try:
            async with conn.transaction():
                await conn.execute("SET LOCAL lock_timeout = '2s'")
                await conn.execute("SET LOCAL statement_timeout = '5min'")
                await conn.execute(migration.sql)
                await conn.execute(
                    "INSERT INTO schema_migrations (domain, name, checksum) VALUES ($1, $2, $3)",
                    migration.domain,
                    migration.name,
                    migration.checksum,
                )
            return
        except asyncpg.LockNotAvailableError:
            if attempt == _LOCK_ATTEMPTS:
                raise MigrationError(
                    f"{migration.title}: a table stayed locked. Try again when less is going on."
                ) from None
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.title}: {error.args[0]}") from None

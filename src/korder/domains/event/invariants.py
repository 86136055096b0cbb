"""What must hold between the event domain and the sale side, counted in the database."""

from pathlib import Path
from typing import Any

from korder.kernel.audit import Finding
from korder.platform.postgres import Connection, load_queries

_queries = load_queries(Path(__file__).with_name("queries.sql"))
#: `repair` looks every second at what is two seconds old; five rounds later something is wrong.
LATE_S = 10


async def check(conn: Connection) -> list[Finding]:
    """Whether the sale side knows every event, and every change of a ticket type ended."""
    told = await _queries.count_unannounced(conn, late_s=LATE_S)
    ended = await _queries.count_intents(conn, late_s=LATE_S)
    return [
        _finding(told, "the sale side knows every published or cancelled event"),
        _finding(ended, "every change of a ticket type was agreed or dropped"),
    ]


def _finding(row: Any, name: str) -> Finding:
    examples = tuple(row["examples"] or ())
    return Finding(9, name, row["checked"], row["failed"], examples)

"""SQL and Lua explain themselves, each rule with the outage that it prevents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "korder"
LUA = sorted(SRC.rglob("*.lua"))
QUERIES = sorted(path for path in SRC.rglob("*.sql") if "migrations" not in path.parts)
MIGRATIONS = sorted((SRC / "migrations").rglob("*.sql"))

_QUERY = re.compile(r"^-- name: *(\S+)(.*?)(?=^-- name:|\Z)", re.MULTILINE | re.DOTALL)


def undescribed_queries(text: str) -> Iterator[str]:
    """Whoever is woken by a slow query has its text and asks: who sends this, and may I kill it?

    So each query has a name, which finds its caller, and a sentence that says what it is for.
    """
    for name, body in _QUERY.findall(text):
        lines = body.strip().splitlines()
        comment = lines[0] if lines else ""
        if not re.match(r"-- \w.{10,}", comment):
            yield f"{name}: no describing sentence under its name"


def unbounded_changes(text: str) -> Iterator[str]:
    """An UPDATE that has lost its WHERE sells every seat of every event in one statement."""
    for name, body in _QUERY.findall(text):
        sql = re.sub(r"--.*", "", body)
        for statement in re.findall(r"\b(?:UPDATE|DELETE\s+FROM)\b[^;]*", sql, re.IGNORECASE):
            is_locking = re.match(r"UPDATE\s*(?:OF|NOWAIT|SKIP|\)|$)", statement, re.IGNORECASE)
            is_upsert = re.match(r"UPDATE\s+SET\b", statement, re.IGNORECASE)
            if not is_locking and not is_upsert and "where" not in statement.lower():
                yield f"{name}: changes rows without a WHERE"


def bad_lua_header(text: str) -> Iterator[str]:
    """The order of KEYS and ARGV is the whole interface of a function, and nothing checks it.

    Two swapped arguments give stock to the wrong ticket type, and every call succeeds. The header
    says purpose, KEYS, ARGV and what is returned, where the caller looks for it.
    """
    header = re.match(r"(?:--.*\n)+", text)
    comment = header.group() if header else ""
    if not re.match(r"-- \w+: \w.+", comment):
        yield "the first line is not `-- name: what it is for`"
    if "register_function" in text:
        yield from (f"no {word} in the header" for word in ("KEYS", "ARGV") if word not in comment)
        if not re.search(r"^-- +Returns? \S", comment, re.MULTILINE):
            yield "no Returns in the header"


def chance_in_lua(text: str) -> Iterator[str]:
    """A function that draws lots or asks the clock decides otherwise when it is run again.

    Replayed from the append-only file, or tested a second time, it must do the same.
    """
    code = re.sub(r"--.*", "", text)
    for call in ("math.random", "os.time", "os.clock", "'TIME'", '"TIME"'):
        if call in code:
            yield f"uses {call}"


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: str(path.relative_to(SRC)))
@pytest.mark.parametrize("rule", [undescribed_queries, unbounded_changes])
def test_named_queries(rule, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert _QUERY.findall(text), "no named query"
    assert not (found := list(rule(text))), "\n".join([rule.__doc__, *found])


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: str(path.relative_to(SRC)))
def test_the_names_of_a_file_differ(path: Path) -> None:
    """The later of two queries of one name silently wins."""
    names = [name.rstrip("!^$<#*") for name, _ in _QUERY.findall(path.read_text(encoding="utf-8"))]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.name)
def test_lua_functions_are_documented(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = [] if path.name.startswith("00_") else list(bad_lua_header(text))
    found += chance_in_lua(text)
    assert not found, "\n".join([str(bad_lua_header.__doc__), *found])


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_migrations_are_named_in_order(path: Path) -> None:
    """Two files numbered 0002 run in an order that depends on their names, not on their dates.

    One machine then has a column that another has not. NNNN-name.sql, counted from 0001 in each
    domain, without a gap or a twin.
    """
    assert re.fullmatch(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.sql", path.name)
    numbers = sorted(int(other.name[:4]) for other in path.parent.glob("*.sql"))
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_migration_leaves_the_transaction_to_the_runner(path: Path) -> None:
    """A COMMIT in the middle leaves half a schema behind when the second half fails."""
    sql = re.sub(r"--.*|\$\$.*?\$\$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"^\s*(BEGIN|COMMIT|ROLLBACK)\s*;", sql, re.MULTILINE | re.IGNORECASE)


def test_there_is_something_to_look_at() -> None:
    assert LUA
    assert QUERIES
    assert MIGRATIONS


BAD = [
    (undescribed_queries, "-- name: fences\nSELECT 1;\n"),
    (undescribed_queries, "-- name: a\n-- The first of two.\nSELECT 1;\n-- name: b\nSELECT 2;\n"),
    (unbounded_changes, "-- name: oops!\n-- WHERE is it?\nUPDATE inventory SET sold = 0;\n"),
    (unbounded_changes, "-- name: oops!\n-- All gone.\nDELETE FROM reservations;\n"),
    (bad_lua_header, "local function f(keys, args) end\n"),
    (
        bad_lua_header,
        "-- f: does it.\n-- KEYS 1 a\n-- Returns x.\nserver.register_function('f', f)",
    ),
    (bad_lua_header, "-- f: does it.\n-- KEYS 1\n-- ARGV 1\nserver.register_function('f', f)"),
    (chance_in_lua, "local lot = math.random()"),
    (chance_in_lua, "local now = server.call('TIME')"),
]


@pytest.mark.parametrize(("rule", "text"), BAD)
def test_a_rule_sees_what_it_is_for(rule, text: str) -> None:
    assert list(rule(text))

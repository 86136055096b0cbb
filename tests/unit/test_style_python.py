"""House rules that no linter knows, each with the outage that it prevents.

A rule is a function from a syntax tree to complaints. The examples at the end are its negative
controls: a rule that finds nothing in them finds nothing anywhere.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "korder"
FILES = sorted(SRC.rglob("*.py"))

LONGEST_FILE = 350
LONGEST_TEST_FILE = 500  # a list of cases is read by the case
LONGEST_FUNCTION = 70
#: Longer files, and why they are not split.
LONG_FILES = {}

#: (rule, file) -> why it may. One that is no longer needed fails a test, and is taken out.
EXCEPTIONS = {
    ("reads_environment", "settings.py"): "the one reader",
    ("reads_environment", "cli/supervisor.py"): "hands its own (PATH, TZ, LANG) on to children",
    ("reads_environment", "cli/admin.py"): "a password: nothing that --help or a page may show",
    ("builds_sql", "platform/idempotency.py"): "a schema cannot be a parameter; a closed list",
    ("has_long_functions", "cli/checks/sense.py"): "a table: one row after the other, no branches",
}

_SQL_CALLS = {
    "execute", "executemany", "fetch", "fetchrow", "fetchval", "fetchmany", "prepare", "cursor",
}  # fmt: skip
_IMPURE_MODULES = {
    "asyncio", "asyncpg", "httpx", "os", "random", "redis", "secrets", "socket", "subprocess",
    "threading", "time",
}  # fmt: skip

Rule = Callable[[ast.Module], Iterator[str]]


def reads_environment(tree: ast.Module) -> Iterator[str]:
    """A setting read in some corner is in no `--help`, no settings page and no child process.

    The worker then runs with another wait budget than the API that counts on it, and nobody can
    see it. Only korder/settings.py reads the environment; the others get a `Settings`.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "environb" | "getenv"):
                yield f"line {node.lineno}: os.{node.attr}"
            case ast.ImportFrom(module="os", names=names):
                yield from (
                    f"line {node.lineno}: os.{n.name}"
                    for n in names
                    if n.name in {"environ", "environb", "getenv"}
                )


def builds_sql(tree: ast.Module) -> Iterator[str]:
    """A title of `'); DROP TABLE inventory; --` must be a title.

    SQL is a named query or a literal; values travel beside it. Text that is put together from
    parts at the call (f-string, %, +, .format, .join) is where an injection gets in.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=[sql, *_]) if name in _SQL_CALLS:
                if _is_built(sql):
                    yield f"line {node.lineno}: .{name}() of SQL put together from parts"


def _is_built(sql: ast.expr) -> bool:
    match sql:
        case ast.JoinedStr(values=values):
            return any(isinstance(value, ast.FormattedValue) for value in values)
        case ast.BinOp(op=ast.Mod() | ast.Add()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
    return False


def has_effects(tree: ast.Module) -> Iterator[str]:
    """A decision that asks the clock itself cannot be tested at its edge.

    A hold that ends "now" is then expired to the sweeper and live to the buyer. In `model.py`
    values go in, `now` among them, and values come out: no clock, no chance, no I/O, no await.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    if name.name.split(".")[0] in _IMPURE_MODULES:
                        yield f"line {node.lineno}: imports {name.name}"
            case ast.ImportFrom(module=str(module)):
                if module.split(".")[0] in _IMPURE_MODULES or module == "korder.kernel.clock":
                    yield f"line {node.lineno}: imports from {module}"
            case ast.Call(func=ast.Attribute(attr="now" | "utcnow" | "today")):
                yield f"line {node.lineno}: asks the clock"
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncWith() | ast.AsyncFor():
                yield f"line {node.lineno}: awaits"


def swallows_everything(tree: ast.Module) -> Iterator[str]:
    """A worker that passes over every error acknowledges what it never wrote.

    The stream entry is gone, the reservation never was, and the log is empty. `except Exception`
    (and wider) must do something: raise, log, answer.
    """
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=None | ast.Name(id="Exception" | "BaseException"), body=b):
                if all(isinstance(line, ast.Pass | ast.Continue) for line in b):
                    yield f"line {node.lineno}: swallows every error"
            case (
                ast.Call(func=ast.Attribute(attr="suppress"), args=[ast.Name(id="Exception"), *_])
                | ast.Call(func=ast.Attribute(attr="suppress"), args=[ast.Name(id="BaseException")])
            ):
                yield f"line {node.lineno}: suppresses every error"


def has_long_functions(tree: ast.Module) -> Iterator[str]:
    """What does not fit on a screen is not read before it is changed. Ten lines read best.

    The lines of functions inside (the routes that a factory binds to its service) count for them.
    """
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, functions):
            inner = (child for child in ast.iter_child_nodes(node) if isinstance(child, functions))
            lines = _lines(node) - sum(_lines(child) for child in inner)
            if lines > LONGEST_FUNCTION:
                yield f"line {node.lineno}: {node.name} has {lines} lines of its own"


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return (node.end_lineno or node.lineno) - first + 1


def uses_floats_for_money(tree: ast.Module) -> Iterator[str]:
    """0.1 + 0.2 is not 0.3: a refund that is off by one won is a refund that is wrong.

    Money is an integer in the currency's minor unit, beside its currency.
    """
    for node in ast.walk(tree):
        match node:
            case (
                ast.AnnAssign(
                    target=ast.Name(id="amount" | "price" | "balance" | "delta" | "points"),
                    annotation=ast.Name(id="float"),
                )
                | ast.arg(
                    arg="amount" | "price" | "balance" | "delta" | "points",
                    annotation=ast.Name(id="float"),
                )
            ):
                yield f"line {node.lineno}: money as a float"


EVERYWHERE: list[Rule] = [
    reads_environment,
    builds_sql,
    swallows_everything,
    has_long_functions,
    uses_floats_for_money,
]


def broken(rule: Rule, files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}, {complaint}"
        for path in files
        for complaint in rule(ast.parse(path.read_text(encoding="utf-8")))
    ]


def excepted(rule: Rule, path: Path) -> bool:
    return (rule.__name__, path.relative_to(SRC).as_posix()) in EXCEPTIONS


@pytest.mark.parametrize("rule", EVERYWHERE, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    found = broken(rule, [path for path in FILES if not excepted(rule, path)])
    assert not found, "\n".join([str(rule.__doc__), *found])


@pytest.mark.parametrize("rule", EVERYWHERE, ids=lambda rule: rule.__name__)
def test_an_exception_that_nobody_needs_is_taken_out(rule: Rule) -> None:
    for path in (path for path in FILES if excepted(rule, path)):
        assert broken(rule, [path]), f"EXCEPTIONS: {path.name} keeps {rule.__name__} now"


def test_models_are_pure() -> None:
    models = [path for path in FILES if path.name == "model.py"]
    assert models
    assert not (found := broken(has_effects, models)), "\n".join([str(has_effects.__doc__), *found])


def test_files_stay_small() -> None:
    """A service of 2,500 lines began as one of 351. 100 to 250 lines read best."""
    files = dict.fromkeys(FILES, LONGEST_FILE)
    files |= dict.fromkeys((ROOT / "tests").rglob("*.py"), LONGEST_TEST_FILE)
    sizes = {path: path.read_text(encoding="utf-8").count("\n") for path in files}
    long = {
        path.relative_to(ROOT).as_posix(): lines
        for path, lines in sizes.items()
        if lines > files[path]
    }
    assert long.keys() <= LONG_FILES.keys(), f"find the seam and split: {long}"
    assert LONG_FILES.keys() <= long.keys(), f"LONG_FILES: short enough now: {long}"


BAD: list[tuple[Rule, str]] = [
    (reads_environment, "import os\nport = os.environ['PORT']"),
    (reads_environment, "import os\nport = os.getenv('PORT')"),
    (reads_environment, "from os import environ"),
    (builds_sql, "conn.execute(f'SELECT {name}')"),
    (builds_sql, "conn.fetch('SELECT %s' % name)"),
    (builds_sql, "conn.fetchrow('SELECT ' + name)"),
    (builds_sql, "conn.fetchval('SELECT {}'.format(name))"),
    (has_effects, "import time\nnow = time.time()"),
    (has_effects, "from korder.kernel.clock import now"),
    (has_effects, "def due(hold): return hold.expires_at < datetime.now(UTC)"),
    (has_effects, "async def decide(): ..."),
    (swallows_everything, "try: settle()\nexcept Exception: pass"),
    (swallows_everything, "try: settle()\nexcept: pass"),
    (swallows_everything, "with contextlib.suppress(Exception): settle()"),
    (has_long_functions, "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION),
    (uses_floats_for_money, "class Purchase:\n    amount: float"),
    (uses_floats_for_money, "def pay(price: float): ..."),
]


@pytest.mark.parametrize(("rule", "code"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_sees_what_it_is_for(rule: Rule, code: str) -> None:
    assert list(rule(ast.parse(code)))


GOOD: list[tuple[Rule, str]] = [
    (reads_environment, "def environment(self): return self.environ"),
    (builds_sql, "conn.execute('SELECT $1', name)\nconn.fetch(query, 1)\nconn.fetch(f'SELECT 1')"),
    (has_effects, "def due(hold, now): return hold.expires_at <= now"),
    (swallows_everything, "try: settle()\nexcept OSError: pass\nexcept Exception: log.error('x')"),
]


@pytest.mark.parametrize(("rule", "code"), GOOD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_leaves_good_code_alone(rule: Rule, code: str) -> None:
    assert not list(rule(ast.parse(code)))

"""The repository as a whole: locks, links, the catalogue of messages, the layers."""

import ast
import re
import string
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from korder.kernel.errors import Code
from korder.kernel.messages import MESSAGES

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "requirements.lock", ROOT / "requirements-dev.lock"]
#: The repository's own pages; what tests, caches and the embedded servers leave is not ours.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_PIN = re.compile(r"^([a-z0-9-]+)==([^ ]+)(?: ;[^\\]*)? \\$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


def locked(path: Path) -> dict[str, str]:
    """name -> version."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {m[1]: m[2] for line in lines if (m := _PIN.match(line))}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_holds_names_versions_and_hashes_only(path: Path) -> None:
    """A lock with an address in it installs nowhere but where it was made."""
    for line in path.read_text(encoding="utf-8").splitlines():
        is_hash = re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line)
        assert line.startswith("#") or _PIN.match(line) or is_hash, line
        assert "://" not in line
    assert len(locked(path)) > 10


def test_the_dev_lock_holds_the_runtime_lock() -> None:
    """Tests against other versions than those that run prove nothing about what runs."""
    runtime, dev = (locked(path) for path in LOCKS)
    assert runtime.items() <= dev.items()


def test_every_dependency_is_locked() -> None:
    """A dependency in pyproject.toml alone is missing in every fresh clone. Mend it: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime, dev = (locked(path) for path in LOCKS)
    needed = {re.split(r"[\[<>=!~; ]", name)[0] for name in project["dependencies"]}
    extra = {re.split(r"[\[<>=!~; ]", n)[0] for n in project["optional-dependencies"]["dev"]}
    assert needed <= set(runtime)
    assert extra <= set(dev)
    assert "hatchling" in runtime, "Korder itself is built with it, without build isolation"


#: Packages whose module has another name.
MODULE_OF = {"argon2-cffi": "argon2", "pyjwt": "jwt"}
#: Dependencies that nothing imports, and why they are there all the same.
NOT_IMPORTED = {"hiredis": "redis uses it when it is there; it parses replies in C"}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    """A package that comes along with another goes with it, at somebody else's upgrade.

    And one that nobody imports any more is still downloaded, started and patched by everybody.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {MODULE_OF.get(n, n.replace("-", "_")) for n in project["dependencies"]}
    imported: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    imported |= {name.name.split(".")[0] for name in names}
                case ast.ImportFrom(module=str(module), level=0):
                    imported.add(module.split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"korder"}
    assert foreign <= declared, "declare them in pyproject.toml, then: make lock"
    assert declared - foreign == NOT_IMPORTED.keys(), "take it out of pyproject.toml, or say why"


def test_every_message_is_in_both_languages() -> None:
    """A refusal without its Korean text is a KeyError on the way to telling somebody no.

    Both languages of a message fill the same parameters, or one of them fails when it is shown.
    """
    for key, (korean, english) in MESSAGES.items():
        assert korean.strip(), key
        assert english.strip(), key
        assert re.search("[가-힣]", korean), f"{key}: the Korean text has no Korean in it"
        assert not re.search("[가-힣]", english), f"{key}: the English text has Korean in it"
        assert parameters(korean) == parameters(english), key


def parameters(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_title_and_a_detail(code: Code) -> None:
    assert f"{code}.title" in MESSAGES
    assert str(code) in MESSAGES


def test_every_key_belongs_to_a_code_or_a_field() -> None:
    """A key that is misspelt is never found, and its text never shown."""
    known = {str(code) for code in Code} | {"field"}
    assert not [key for key in MESSAGES if key.split(".")[0] not in known]


def dead_links(page: Path, text: str) -> Iterator[str]:
    """A runbook whose link is dead is read at three in the morning."""
    for target in _LINK.findall(_without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue  # the world outside is not ours to keep
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            yield f"{target}: no such file"
        elif anchor and path.suffix == ".md":
            headings = text if path == page else path.read_text(encoding="utf-8")
            if anchor not in anchors(headings):
                yield f"{target}: no such heading"


def anchors(text: str) -> set[str]:
    """The anchors that a forge gives to the headings of a page, twins numbered."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", _without_code(text), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        base = slug = words.replace(" ", "-")
        twin = 0
        while slug in found:
            twin += 1
            slug = f"{base}-{twin}"
        found.add(slug)
    return found


def _without_code(text: str) -> str:
    """Links in code blocks are examples, and `# comments` there no headings."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    found = list(dead_links(page, page.read_text(encoding="utf-8")))
    assert not found, "\n".join([str(dead_links.__doc__), *found])


def test_a_dead_link_is_seen() -> None:
    text = (
        "# A b\n[one](nowhere.md) [two](#c) [three](#a-b) ![four](x.png)\n```\n[no](no.md)\n```\n"
    )
    found = list(dead_links(ROOT / "README.md", text))
    assert [line.split(":")[0] for line in found] == ["nowhere.md", "#c", "x.png"]


def test_every_make_target_explains_itself() -> None:
    """`make` alone is the table of contents; what is not in it does not exist for a newcomer."""
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    targets = [line for line in lines if re.match(r"[a-z-]+:(?!=)", line)]
    assert len(targets) > 5
    assert not [line for line in targets if not re.search(r"## [A-Z].+\.$", line)]

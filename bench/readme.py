"""Writes the measured figures from bench/results/ into the READMEs and the architecture page.

    python -m bench.readme [--check]

Only the blocks between their two comments are touched. A result that is missing leaves its
rows out; without any, the block says what measures it. `--check` changes nothing, and ends with
status 1 when a page is not up to date.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
#: The profile of the hot path has a block of the same kind in here.
PROFILED = "docs/architecture.md"
PROFILE_BEGIN, PROFILE_END = "<!-- profile:begin -->", "<!-- profile:end -->"


class Words(NamedTuple):
    """Everything that the block says, in one language."""

    nothing: str
    head: tuple[str, ...]
    rows: dict[str, str]
    medians: str
    million_head: tuple[str, str]
    seconds: str
    first: str
    last: str
    valkey: str
    memory: str
    audit: str
    clean: str
    broken: str
    cores: str
    source: str


ENGLISH = Words(
    nothing="Nothing is measured here yet: `make bench` does it, and writes the figures into this "
    "place.",
    head=(
        "",
        "requests/s",
        "of the ASGI ceiling",
        "of the short way's ceiling",
        "p50 ms",
        "p99 ms",
    ),
    rows={
        "held": "held reservations, 1,000 connections",
        "held-64": "held reservations, 64 connections",
        "refused": "refusals (sold out), each with a key, 1,000 connections",
        "refused-nokey": "refusals (sold out) without a key, 1,000 connections",
        "availability": "availability reads, 1,000 connections",
        "row-lock": "held with a row lock per request, 1,000 connections",
        "ceiling": "ceiling: a constant to the same POST, as ASGI application",
        "ceiling-fast": "the same constant on the reserve path's own short way",
        "ceiling-get": "ceiling: a constant to the same GET, as ASGI application",
        "ceiling-get-fast": "the same constant on the short way",
    },
    medians="Medians of {rounds} rounds; ratios are taken within a round. The load generator (wrk, "
    "one thread) ran on the same machine.",
    million_head=("{count} reservations in one go", ""),
    seconds="took",
    first="the first tenth",
    last="the last tenth",
    valkey="Valkey, per live reservation",
    memory="most resident memory of {name}",
    audit="Audit afterwards",
    clean="clean",
    broken="**not clean**",
    cores="{count} cores",
    source="Measured {date} on {machine} with `{command}`.",
)

KOREAN = Words(
    nothing="아직 측정한 값이 없습니다. `make bench`가 측정한 뒤 이 자리에 수치를 채웁니다.",
    head=("", "초당 요청", "ASGI 상한 대비", "지름길 상한 대비", "p50 ms", "p99 ms"),
    rows={
        "held": "예약 성공, 연결 1,000개",
        "held-64": "예약 성공, 연결 64개",
        "refused": "거절(매진), 요청마다 키 있음, 연결 1,000개",
        "refused-nokey": "거절(매진), 키 없음, 연결 1,000개",
        "availability": "잔여 수량 조회, 연결 1,000개",
        "row-lock": "요청마다 행 잠금을 잡는 방식의 예약 성공, 연결 1,000개",
        "ceiling": "상한: 같은 POST에 상수로 답하기(ASGI 애플리케이션)",
        "ceiling-fast": "같은 상수를 예약 경로의 지름길로 답하기",
        "ceiling-get": "상한: 같은 GET에 상수로 답하기(ASGI 애플리케이션)",
        "ceiling-get-fast": "같은 상수를 지름길로 답하기",
    },
    medians="{rounds}회 측정의 중앙값이며, 비율은 같은 회차 안에서 구했습니다. 부하 발생기(wrk, "
    "스레드 1개)도 같은 기계에서 돌았습니다.",
    million_head=("예약 {count}건을 한 번에", ""),
    seconds="걸린 시간",
    first="처음 10분의 1",
    last="마지막 10분의 1",
    valkey="살아 있는 예약 한 건당 Valkey 메모리",
    memory="{name}의 최대 상주 메모리",
    audit="이후의 감사 결과",
    clean="이상 없음",
    broken="**이상 있음**",
    cores="코어 {count}개",
    source="{date}, {machine}에서 잰 값입니다. 명령: `{command}`.",
)

PAGES = {"README.md": ENGLISH, "README.ko.md": KOREAN}


def block(results: Path, words: Words) -> str:
    """What stands between the two comments."""
    parts = []
    throughput, million = _read(results / "throughput.json"), _read(results / "million.json")
    if throughput is not None:
        parts.append(_throughput(throughput, words))
    if million is not None:
        parts.append(_million(million, words))
    return "\n\n".join(parts) or words.nothing


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _throughput(result: dict[str, Any], words: Words) -> str:
    medians = result["medians"]
    rows: list[tuple[str, ...]] = [
        (
            name,
            f"{medians[key]['rate']:,}",
            f"{medians[key]['ratio']:.2f}",
            f"{medians[key]['ratio_fast']:.2f}",
            f"{medians[key]['p50_ms']:,.1f}",
            f"{medians[key]['p99_ms']:,.1f}",
        )
        for key, name in words.rows.items()
        if key in medians
    ]
    rounds = max((len(runs) for runs in result.get("runs", {}).values()), default=1)
    lines = [_table(words.head, rows), words.medians.format(rounds=rounds)]
    lines.append(_source(result, words) + _audit_note(result.get("audit"), words))
    return "\n\n".join(lines)


def _million(result: dict[str, Any], words: Words) -> str:
    rows: list[tuple[str, ...]] = []
    for key, name, shape in (
        ("seconds", words.seconds, "{:,.0f} s"),
        ("rate_first_100k", words.first, "{:,.0f}/s"),
        ("rate_last_100k", words.last, "{:,.0f}/s"),
        ("valkey_bytes_per_reservation", words.valkey, "{:,.0f} B"),
    ):
        if key in result:
            rows.append((name, shape.format(result[key])))
    for name, size in sorted(result.get("rss_max_mb", {}).items()):
        rows.append((words.memory.format(name=name), f"{size:,.0f} MB"))
    if "audit_ok" in result:
        rows.append((words.audit, words.clean if result["audit_ok"] else words.broken))
    head = tuple(text.format(count=f"{result['reservations']:,}") for text in words.million_head)
    return "\n\n".join((_table(head, rows), _source(result, words)))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; all but the first column are numbers and stand to the right."""
    rule = "|---|" + "--:|" * (len(head) - 1)
    return "\n".join([_line(head), rule, *(_line(row) for row in rows)])


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _audit_note(audit: dict[str, Any] | None, words: Words) -> str:
    if audit is None:
        return ""
    return f" {words.audit}: {words.clean if audit['ok'] else words.broken}."


def _source(result: dict[str, Any], words: Words) -> str:
    machine = result["machine"]
    if isinstance(machine, dict):
        date = machine.get("date", "?")
        cores = words.cores.format(count=machine.get("cores", "?"))
        text = f"{machine.get('cpu', '?')}, {cores}, Python {machine.get('python', '?')}"
    else:
        date, text = result.get("date", "?"), str(machine)
    # Where the result was written to is nobody's business but the measuring machine's.
    command = re.sub(r" --out[ =]\S+", "", result["command"])
    return words.source.format(date=date, machine=text, command=command)


def profile(results: Path) -> str:
    """Where each microsecond goes, from `bench.profile`."""
    result = _read(results / "profile.json")
    if result is None:
        return "Not measured yet: `make bench` does it."
    steps = result["steps_us"]
    rows: list[tuple[str, ...]] = [(name, f"{us:.2f}") for name, us in steps.items()]
    rows.append(("sum", f"{sum(steps.values()):.2f}"))
    parts = [_table(("step in the API process, alone", "µs"), rows)]
    loads = result["cpu_us_per_request"]
    names = list(dict.fromkeys(name for load in loads.values() for name in load))
    cells = [
        (title, *(f"{load[name]:,}" if name in load else "" for name in names))
        for title, load in loads.items()
    ]
    head = ("CPU µs per request, loaded", *(n if n != "rate" else "requests/s" for n in names))
    parts += [_table(head, cells), _source(result, ENGLISH)]
    return "\n\n".join(parts)


def renewed(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with another block. Raises ValueError when its comments are not there."""
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page lacks {begin} or {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def main() -> int:
    """Write the pages, or compare them with `--check`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    blocks = [(name, block(RESULTS, words), BEGIN, END) for name, words in PAGES.items()]
    blocks.append((PROFILED, profile(RESULTS), PROFILE_BEGIN, PROFILE_END))
    stale = []
    for name, text, begin, end in blocks:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = renewed(before, text, begin, end)
        if after == before:
            continue
        stale.append(name)
        if not given.check:
            path.write_text(after, encoding="utf-8")
    if stale:
        print(f"{'not up to date' if given.check else 'written'}: {', '.join(stale)}")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())

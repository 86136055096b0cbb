"""The reserve path against the ceiling of its own HTTP server, everything on this machine.

    python -m bench.throughput [--seconds 8] [--rounds 3] [--only held,refused,...]

Every round runs each scenario once, in turn, so that a drift of the machine's speed meets all of
them; ratios are taken within a round, and the medians over the rounds are what counts.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from bench import lab as labs
from bench.servers import started

AIMS = {"held": 0.6, "refused": 0.7, "availability": 0.7}


def measure(lab: labs.Lab, seconds: float, rounds: int, only: set[str]) -> dict[str, Any]:
    """All scenarios, `rounds` times."""
    sale = labs.open_sale(lab, capacity=10_000_000, members=5000)
    none_left = labs.open_sale(lab, capacity=0, members=0)
    env = {
        "TOKENS": str(sale.tokens),
        "EVENT_ID": sale.event_id,
        "KEYS": "1",
        "TICKET_TYPE_ID": sale.ticket_type_id,
    }
    env_none = {**env, "EVENT_ID": none_left.event_id, "TICKET_TYPE_ID": none_left.ticket_type_id}
    runs: dict[str, list[labs.Run]] = {}

    def go(name: str, url: str, script: str, settings: dict[str, str], connections: int) -> None:
        if only and name not in only and not name.startswith("ceiling"):
            return
        number = len(runs.get(name, []))
        run = labs.wrk(
            url,
            script,
            connections=connections,
            seconds=seconds,
            env={**settings, "RUN": f"{name}{number}"},
        )
        runs.setdefault(name, []).append(run)
        print(
            f"  {name:<17}{run.rate:>9.0f}/s  p50 {run.p50_ms:7.1f}  p99 {run.p99_ms:7.1f} ms"
            f"  other {run.other}  errors {run.socket_errors}",
            flush=True,
        )

    with (
        started("ceiling", lab) as ceiling,
        started("ceiling-fast", lab) as ceiling_fast,
        started("row-lock", lab) as row_lock,
    ):
        labs.wrk(lab.url, "reserve.lua", connections=64, seconds=2, env={**env, "RUN": "warm"})
        for number in range(rounds):
            print(f"round {number + 1}", flush=True)
            go("ceiling", ceiling, "reserve.lua", env, 1000)
            go("held", lab.url, "reserve.lua", env, 1000)
            go("ceiling-fast", ceiling_fast, "reserve.lua", env, 1000)
            go("refused", lab.url, "reserve.lua", env_none, 1000)
            go("refused-nokey", lab.url, "reserve.lua", {**env_none, "KEYS": "0"}, 1000)
            go("ceiling-get", ceiling, "availability.lua", env, 1000)
            go("ceiling-get-fast", ceiling_fast, "availability.lua", env, 1000)
            go("availability", lab.url, "availability.lua", env, 1000)
            go("held-64", lab.url, "reserve.lua", env, 64)
            go("row-lock", row_lock, "reserve.lua", env, 1000)
    return {name: [vars(run) for run in found] for name, found in runs.items()}


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """Medians, and the medians of the ratios to the ceilings of the same round."""
    result: dict[str, Any] = {}
    for name, found in runs.items():
        get = "-get" if name == "availability" or "-get" in name else ""
        result[name] = {
            "rate": round(statistics.median(r["rate"] for r in found)),
            "ratio": ratio(found, runs[f"ceiling{get}"]),
            "ratio_fast": ratio(found, runs[f"ceiling{get}-fast"]),
            "p50_ms": round(statistics.median(r["p50_ms"] for r in found), 1),
            "p99_ms": round(statistics.median(r["p99_ms"] for r in found), 1),
            "errors": sum(r["socket_errors"] for r in found),
        }
    return result


def ratio(found: list[dict[str, Any]], ceiling: list[dict[str, Any]]) -> float:
    """The median over the rounds."""
    pairs = zip(found, ceiling, strict=False)
    return round(statistics.median(run["rate"] / most["rate"] for run, most in pairs), 2)


def main() -> int:
    """Run, print, keep; status 1 when the audit is not clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    about = labs.machine()
    with labs.running() as lab:
        only = {name for name in given.only.split(",") if name}
        runs = measure(lab, given.seconds, given.rounds, only)
        audit = json.loads(lab.korder("audit", "--json"))
    medians = summary(runs)
    print(f"\n{about}\n{'':<17}{'median/s':>10}{'ratio':>8}{'fast':>8}{'p50 ms':>9}{'p99 ms':>9}")
    for name, row in medians.items():
        print(
            f"{name:<17}{row['rate']:>10}{row['ratio']:>8}{row['ratio_fast']:>8}"
            f"{row['p50_ms']:>9}{row['p99_ms']:>9}"
        )
    if given.out:
        kept = {
            "machine": about,
            "command": " ".join(["python -m bench.throughput", *sys.argv[1:]]),
            "medians": medians,
            "runs": runs,
            "audit": audit,
        }
        given.out.write_text(json.dumps(kept, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

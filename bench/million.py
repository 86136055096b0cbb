"""One million reservations in one go: memory of every process, and whether it slows down.

    python -m bench.million [--count 1000000] [--members 40000] [--out FILE]

Every request has a key of its own and counts against its member's limit, so Valkey keeps
everything that it ever keeps for a live reservation.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import redis

from bench import lab as labs

SAMPLE_S = 1.0


class Sampler(threading.Thread):
    """Reads what is held, and every process's memory, once a second."""

    def __init__(self, lab: labs.Lab, count: int) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._count = count
        self.curve: list[tuple[float, int]] = []
        self.rss_max_mb: dict[str, float] = {}
        self.done = threading.Event()

    def run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        conn = await asyncpg.connect(self._lab.info["database_url"])
        began = time.monotonic()
        while not self.done.is_set():
            held = await conn.fetchval("SELECT sum(held) FROM reservations.inventory")
            self.curve.append((time.monotonic() - began, int(held or 0)))
            for name, pid in self._lab.children().items():
                self._note(name, pid)
            if held and held >= self._count:
                self.done.set()
            await asyncio.sleep(SAMPLE_S)
        await conn.close()

    def _note(self, name: str, pid: int) -> None:
        try:
            mb = psutil.Process(pid).memory_info().rss / 1e6
        except psutil.Error:
            return
        self.rss_max_mb[name] = max(self.rss_max_mb.get(name, 0.0), round(mb, 1))

    def reached(self, held: int) -> float:
        """When this many were held, in seconds, between two samples."""
        for (t0, n0), (t1, n1) in zip(self.curve, self.curve[1:], strict=False):
            if n0 <= held <= n1 and n1 > n0:
                return t0 + (t1 - t0) * (held - n0) / (n1 - n0)
        raise RuntimeError(f"{held} were never held")


def valkey_bytes(client: Any) -> int:
    return int(client.info("memory")["used_memory"])


def measure(lab: labs.Lab, count: int, members: int) -> dict[str, Any]:
    """Reserve until `count` are held; what it took."""
    sale = labs.open_sale(lab, capacity=count, members=members, max_per_member=100)
    client = redis.Redis.from_url(lab.info["valkey_url"])
    before = valkey_bytes(client)
    sampler = Sampler(lab, count)
    sampler.start()
    number = 0
    while not sampler.done.is_set():
        number += 1
        run = labs.wrk(
            lab.url,
            "reserve.lua",
            connections=500,
            seconds=10,
            env={
                "TOKENS": str(sale.tokens),
                "EVENT_ID": sale.event_id,
                "KEYS": "1",
                "TICKET_TYPE_ID": sale.ticket_type_id,
                "RUN": f"m{number}",
            },
        )
        print(f"  {sampler.curve[-1][1]:>9} held, {run.rate:.0f} requests/s", flush=True)
    sampler.join()
    tenth = count // 10
    first = sampler.reached(tenth) - sampler.reached(1)
    last = sampler.reached(count) - sampler.reached(count - tenth)
    time.sleep(3)
    return {
        "reservations": count,
        "seconds": round(sampler.reached(count), 1),
        "rate_first_100k": round(tenth / first),
        "rate_last_100k": round(tenth / last),
        "ratio_last_to_first": round(first / last, 2),
        "rss_max_mb": sampler.rss_max_mb,
        "valkey_bytes_per_reservation": round((valkey_bytes(client) - before) / count, 1),
    }


def main() -> int:
    """Run, print, keep; status 1 when the audit is not clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=40_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    about = labs.machine()
    with labs.running() as lab:
        result = measure(lab, given.count, given.members)
        audit = json.loads(lab.korder("audit", "--json"))
    result = {
        "machine": about,
        "command": " ".join(["python -m bench.million", *sys.argv[1:]]),
        **result,
        "audit_ok": audit["ok"],
    }
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if audit["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""Where each microsecond of a held reservation goes.

    python -m bench.profile [--seconds 6] [--out FILE]

First each step of the API process alone, timed in a loop (best of five), then the CPU time of
every process per request while wrk loads the whole system. The second is more than the sum of the
first: sockets, the parser, and caches that a thousand requests in flight do not fit into.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psutil
import uvloop

from bench import lab as labs
from bench.servers import started
from korder.bootstrap.server import spare_the_collector
from korder.domains.reservation.gate import Gate
from korder.domains.reservation.hot import _decoder
from korder.domains.reservation.model import HELD
from korder.domains.reservation.order import order_of, refused_here
from korder.domains.reservation.record import VERDICT
from korder.domains.reservation.replies import Replies
from korder.domains.reservation.snapshots import SaleSnapshot
from korder.domains.reservation.waiters import Answer
from korder.platform.auth import Authenticator, Principal
from korder.platform.http.edge import Call

LOOPS = 20_000


def best_us(work: Callable[[], Any], loops: int = LOOPS) -> float:
    """Microseconds of one call, the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(loops):
            work()
        best = min(best, (time.perf_counter() - began) / loops * 1e6)
    return round(best, 2)


def steps() -> dict[str, float]:
    """Each step of the short way, alone."""
    event, ticket_type = uuid4(), uuid4()
    sale = SaleSnapshot(
        type_id=ticket_type, event_id=event, shard=3, currency="KRW",
        opens_us=0, closes_us=10**17, cancelled=False,
    )  # fmt: skip
    body = msgspec.json.encode(
        {"event_id": str(event), "ticket_type_id": str(ticket_type), "quantity": 1}
    )
    token = b"Bearer " + b"x" * 780
    pairs = [(b"host", b"localhost"), (b"idempotency-key", b"r-1"), (b"authorization", token)]
    call = Call({"path": "/v1/reservations"}, dict(pairs), None, 65_536)  # type: ignore[arg-type]
    member = uuid4()
    principal = Principal(member, member.bytes, UUID(int=1), 1e12)
    auth = Authenticator(None, issuer="", audience="")  # type: ignore[arg-type]
    auth._cache[token] = principal
    order = order_of(call, principal, sale, 1)
    answer = Answer(HELD, order.id, 1_700_000_000_000_000, 1_700_000_300_000_000, 50_000)
    replies = Replies()
    return {
        "headers into a dictionary": best_us(lambda: dict(pairs)),
        "token from the cache": best_us(lambda: auth.cached(token)),
        "body decoded": best_us(lambda: _decoder.decode(body)),
        "key hashed, id made, record packed": best_us(lambda: order_of(call, principal, sale, 1)),
        "window and sold-out memory": best_us(lambda: refused_here(order)),
        "into the batch, out by the verdict (Valkey's part left out)": uvloop.run(gate_us()),
        "answer written out": best_us(lambda: replies.held(order, answer)),
    }


async def gate_us() -> float:
    """One request through the gate's queue, batch and verdict, without a server."""
    gate = Gate(None, None, batch_max=512, queue_max=20_000, wait_budget_ms=5000)

    class Accepts:
        async def call(self, _name: str, _keys: Any, blob: bytes, *_: Any) -> list[bytes]:
            ids = [blob[at : at + 16] for at in range(0, len(blob), 75)]
            gate._loop.call_soon(
                gate.settle, b"".join(VERDICT.pack(rid, HELD, 1, 2, 3) for rid in ids)
            )
            return [b"1", b"A" * len(ids)]

    gate._functions = Accepts()  # type: ignore[assignment]
    best, rest = float("inf"), bytes(59)
    for _ in range(5):
        ids = [n.to_bytes(16, "big") for n in range(LOOPS)]
        left = LOOPS

        def tell(_: Answer) -> None:
            nonlocal left
            left -= 1

        began = time.process_time()
        for rid in ids:
            gate.put(3, rid, rid + rest, tell)
        while left:  # noqa: ASYNC110 - what it waits for runs meanwhile
            await asyncio.sleep(0)
        best = min(best, (time.process_time() - began) / LOOPS * 1e6)
    return round(best, 2)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return float(total)


def loaded(seconds: float) -> dict[str, Any]:
    """CPU microseconds per request of every process, while wrk loads the system."""
    with labs.running() as lab:
        sale = labs.open_sale(lab, capacity=10_000_000, members=2000)
        env = {
            "TOKENS": str(sale.tokens), "EVENT_ID": sale.event_id, "KEYS": "1",
            "TICKET_TYPE_ID": sale.ticket_type_id,
        }  # fmt: skip
        labs.wrk(lab.url, "reserve.lua", connections=64, seconds=2, env={**env, "RUN": "warm"})
        found: dict[str, Any] = {}
        for connections in (1000, 64):
            found[f"held, {connections:,} connections"] = one(
                lab.url, connections, seconds, {**env, "RUN": f"p{connections}"}, lab.children()
            )
        with started("ceiling", lab) as url:
            pid = next(p.pid for p in psutil.Process().children() if "bench.servers" in p.cmdline())
            found["constant, 1,000 connections"] = one(url, 1000, seconds, env, {"api-1": pid})
    return found


def one(
    url: str, connections: int, seconds: float, env: dict[str, str], pids: dict[str, int]
) -> dict[str, float]:
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    run = labs.wrk(url, "reserve.lua", connections=connections, seconds=seconds, env=env)
    spent = {name: (cpu_s(pid) - before[name]) / run.requests * 1e6 for name, pid in pids.items()}
    return {"rate": round(run.rate), **{name: round(us, 1) for name, us in spent.items()}}


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    spare_the_collector()
    result = {
        "machine": labs.machine(),
        "command": "python -m bench.profile",
        "steps_us": steps(),
        "cpu_us_per_request": loaded(given.seconds),
    }
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

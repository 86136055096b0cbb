"""Servers to compare with, run exactly as an API process is (`korder.bootstrap.serve`).

`ceiling` reads the request and answers a constant: what the HTTP server itself can carry.
`ceiling-fast` does so on the short way that hot POST routes take (`platform/http/protocol.py`).
`row-lock` is the same endpoint as most ticket shops have it: one transaction and one row lock for
each request, on the same tables, with the same token check, body check and answer.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import asyncpg

from korder.bootstrap import Api, serve
from korder.domains.reservation.gate import Answer
from korder.domains.reservation.model import HELD, SOLD_OUT
from korder.domains.reservation.record import REQUEST
from korder.kernel.clock import to_micros
from korder.platform.http.edge import Call, Edge, HotRoutes, Reply
from korder.platform.http.protocol import KorderProtocol
from korder.settings import Settings

CONSTANT = b'{"id":"00000000-0000-7000-8000-000000000000","status":"held"}'
#: Connections of the row-lock version; more of them only wait for the same row.
POOL = 20

_LOCK = """
SELECT capacity - held - sold AS available, price, currency, hold_seconds
FROM reservations.inventory WHERE ticket_type_id = $1 FOR NO KEY UPDATE
"""
_INSERT = """
INSERT INTO reservations.reservations (id, member_id, event_id, ticket_type_id, amount, created_at,
    expires_at, updated_at, status, quantity, currency, idempotency_key, fingerprint)
VALUES ($1, $2, $3, $4, $5, now(), now() + make_interval(secs => $6), now(), 'held', $7, $8, $9,
    $10)
ON CONFLICT (member_id, idempotency_key) DO NOTHING RETURNING created_at, expires_at
"""
_MOVE = "UPDATE reservations.inventory SET held = held + $2 WHERE ticket_type_id = $1"


async def ceiling(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request with the same 201."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(CONSTANT))]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": CONSTANT})


class FastCeiling:
    """The same constant, on the short way."""

    def __init__(self) -> None:
        self.edge = Edge(ceiling, HotRoutes(), lambda _: b"", body_max=65_536)

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return ceiling(scope, receive, send)

    def fast(self, _method: bytes, _url: bytes) -> Any:
        return self._answer

    def _answer(self, _call: Call, _body: bytes, _pending: Any) -> Reply:
        headers = [(b"content-type", b"application/json")]
        return 201, [*headers, (b"content-length", b"%d" % len(CONSTANT))], CONSTANT


class RowLockGate:
    """Stands where the gate stands; every request is a transaction."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def may_have_forgotten(self, *_: Any) -> bool:
        return False

    async def submit(self, _shard: int, rid: bytes, record: bytes, **_: Any) -> Answer:
        r = REQUEST.unpack(record)
        type_id = UUID(bytes=r[2])
        async with self._pool.acquire() as conn, conn.transaction():
            row = await conn.fetchrow(_LOCK, type_id)
            if row["available"] < r[5]:
                return Answer(SOLD_OUT, rid)
            event_id = await conn.fetchval(
                "SELECT event_id FROM reservations.inventory WHERE ticket_type_id = $1", type_id
            )
            amount = row["price"] * r[5]
            kept = await conn.fetchrow(
                _INSERT,
                UUID(bytes=rid),
                UUID(bytes=r[1]),
                event_id,
                type_id,
                amount,
                row["hold_seconds"],
                r[5],
                row["currency"],
                r[3] if r[6] else None,
                r[4] if r[6] else None,
            )
            await conn.execute(_MOVE, type_id, r[5])
        return Answer(
            HELD, rid, to_micros(kept["created_at"]), to_micros(kept["expires_at"]), amount
        )


class RowLockApi(Api):
    """The API with the gate taken out."""

    async def start(self) -> None:
        await super().start()
        pool = await asyncpg.create_pool(self._settings.database_url, min_size=POOL, max_size=POOL)
        self.reserve._gate = RowLockGate(pool)


@contextlib.contextmanager
def started(kind: str, lab: Any) -> Iterator[str]:
    """One of the servers on a free port of its own; its base URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        env = {
            **lab.env,
            "DATABASE_URL": lab.info["database_url"],
            "VALKEY_URL": lab.info["valkey_url"],
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.servers", kind, str(fd)], pass_fds=(fd,), env=env
        )
        try:
            time.sleep(2.0)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    os.environ.setdefault("KORDER_LOG_LEVEL", "warning")
    which, fd = sys.argv[1], int(sys.argv[2])
    if which == "ceiling":
        serve(ceiling, fd)
    elif which == "ceiling-fast":
        serve(FastCeiling(), fd, KorderProtocol)
    else:
        serve(RowLockApi(Settings.load()), fd)

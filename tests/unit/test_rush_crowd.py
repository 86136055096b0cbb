"""The load generator against a server that misbehaves on purpose."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from korder.kernel.ids import new_id
from korder.rush.crowd import Crowd
from korder.rush.plan import ERROR, HELD, OVERLOADED, Buyer, Outcome, Plan
from korder.rush.wire import Address, connect, request_bytes

#: What the server says to the n-th request of a key; None drops the connection.
Script = Callable[[str, int, str], bytes | None]


def answer(status: int, body: object, *headers: str) -> bytes:
    raw = json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(raw)}", *headers]
    return "\r\n".join((*head, "", "")).encode() + raw


def held() -> bytes:
    return answer(201, {"id": str(new_id()), "status": "held", "quantity": 1})


@asynccontextmanager
async def server(script: Script) -> AsyncIterator[str]:
    seen: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(
                    line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line
                )
                await reader.readexactly(int(fields.get("content-length", "0")))
                key = fields.get("idempotency-key", "")
                seen[key] += 1
                reply = script(key, seen[key], head.split(" ", 1)[0])
                if reply is None:
                    return
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def rush(script: Script, buyers: int = 1, patience_s: float = 5.0) -> Outcome:
    async with server(script) as base_url:
        plan = Plan(
            base_url=base_url,
            event_id=new_id(),
            ticket_type_id=new_id(),
            quantity=1,
            buyers=[Buyer(new_id(), "token", f"key-{n}") for n in range(buyers)],
            patience_s=patience_s,
        )
        return await Crowd(plan, lambda _: None).rush()


async def test_everybody_gets_one_answer():
    outcome = await rush(lambda key, n, verb: held(), buyers=50)
    assert [a.kind for a in outcome.attempts] == [HELD] * 50
    assert len({a.reservation for a in outcome.attempts}) == 50
    assert [a.buyer for a in outcome.attempts] == list(range(50))


async def test_503_is_tried_again_with_the_same_key():
    def script(key: str, n: int, verb: str) -> bytes:
        return held() if n == 3 else answer(503, {"code": "overloaded"}, "Retry-After: 0.05")

    (attempt,) = (await rush(script)).attempts
    assert (attempt.kind, attempt.retries, attempt.broken) == (HELD, 2, 0)


async def test_a_broken_connection_is_tried_again_with_the_same_key():
    (attempt,) = (await rush(lambda key, n, verb: held() if n == 3 else None)).attempts
    assert (attempt.kind, attempt.broken) == (HELD, 2)


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [({"status": "held"}, HELD), ({"status": "rejected", "reason": "sold_out"}, "sold_out")],
)
async def test_a_202_is_asked_for_until_it_is_decided(verdict, kind):
    name = str(new_id())
    asked = Counter[str]()

    def script(key: str, n: int, verb: str) -> bytes:
        if verb == "POST":
            return answer(202, {"id": name, "status": "queued"}, "Retry-After: 1")
        asked[verb] += 1
        queued = {"id": name, "status": "queued"}
        return answer(200, {**queued, **verdict} if asked[verb] == 2 else queued)

    (attempt,) = (await rush(script)).attempts
    assert (attempt.kind, attempt.queued, str(attempt.reservation)) == (kind, True, name)


async def test_refusals_are_final():
    outcome = await rush(lambda key, n, verb: answer(409, {"code": "sold_out", "status": 409}))
    (attempt,) = outcome.attempts
    assert (attempt.kind, attempt.status, attempt.reservation) == ("sold_out", 409, None)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(503, {"code": "overloaded"}, "Retry-After: 1"), OVERLOADED),
        (b"", ERROR),
        (answer(500, {"code": "internal", "status": 500}), ERROR),
        (answer(200, ["not", "the", "contract"]), ERROR),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ERROR),
    ],
)
async def test_patience_ends(reply, kind):
    (attempt,) = (await rush(lambda key, n, verb: reply, patience_s=0.3)).attempts
    assert attempt.kind == kind
    assert attempt.error
    assert attempt.answered_ms < 2000


async def test_answers_in_pieces_and_in_chunks_are_read_whole():
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with server(lambda key, n, verb: body) as base_url:
        address = Address.of(base_url)
        connection = await connect(address, timeout_s=1)
        for _ in range(2):  # kept alive
            response = await connection.ask(request_bytes(address, "GET", "/", "token"))
            assert (response.status, response.body) == (200, b"abcde")
        connection.close()
        with pytest.raises(ConnectionError):
            await connection.ask(b"")


def test_addresses():
    assert Address.of("http://[::1]:8000/base/") == ("::1", 8000, False, "[::1]:8000", "/base")
    assert Address.of("https://tickets.example")[:3] == ("tickets.example", 443, True)
    with pytest.raises(ValueError, match="not an"):
        Address.of("ftp://x")

"""The short way of POST /v1/reservations behaves as HTTP/1.1 whatever arrives, and as the long way.

Raw sockets, since a client library sends only what is usual.
"""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.contract.client import Api, Person, eventually, wish

SHORT = "/v1/reservations"
#: The same route with a query: it is not taken the short way.
LONG = "/v1/reservations?"


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, api: Api) -> "Wire":
        url = urlsplit(str(api.http.base_url))
        return cls(*await asyncio.open_connection(url.hostname, url.port))

    async def send(self, *parts: bytes, pause: float = 0.02) -> None:
        """Each part in a packet of its own."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(pause)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        first, *lines = head.decode().strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, json.loads(body) if body else None

    async def ended(self) -> bool:
        return await asyncio.wait_for(self.reader.read(1), 10) == b""


def request(
    member: Person, event: dict[str, Any], *, path: str = SHORT, version: str = "1.1",
    body: bytes | None = None, chunked: bool = False, **headers: str,
) -> bytes:  # fmt: skip
    raw = json.dumps(wish(event)).encode() if body is None else body
    named = {
        "host": "x",
        **member.headers,
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    if chunked:
        named["transfer-encoding"] = "chunked"
        raw = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (raw[:10], raw[10:])) + b"0\r\n\r\n"
    else:
        named["content-length"] = str(len(raw))
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/{version}\r\n{lines}\r\n".encode() + raw


@pytest.mark.parametrize("path", [SHORT, LONG])
@pytest.mark.parametrize("cut", [1, 30, 150, -100, -1])
async def test_in_two_packets(api: Api, organizer: Person, cut: int, path: str):
    event = await api.on_sale(organizer, capacity=1)
    wire = await Wire.to(api)
    whole = request(await api.person(), event, path=path)
    await wire.send(whole[:cut], whole[cut:])
    assert (await wire.answer())[0] == 201


async def test_chunked_and_byte_by_byte(api: Api, organizer: Person):
    event = await api.on_sale(organizer, capacity=2)
    wire = await Wire.to(api)
    await wire.send(request(await api.person(), event, chunked=True))
    assert (await wire.answer())[0] == 201
    whole = request(await api.person(), event)
    await wire.send(*(whole[n : n + 1] for n in range(len(whole))), pause=0)
    assert (await wire.answer())[0] == 201


async def test_pipelined_answers_come_in_order(api: Api, organizer: Person):
    """Also with another kind of request between them, and errors among them."""
    event = await api.on_sale(organizer, capacity=2)
    members = [await api.person() for _ in range(3)]
    look = b"GET /v1/events/%b/availability HTTP/1.1\r\nhost: x\r\n\r\n" % event["id"].encode()
    wire = await Wire.to(api)
    first, second, third = (request(m, event, x_request_id=f"n{n}") for n, m in enumerate(members))
    broken = request(members[0], event, body=b"{", x_request_id="broken")
    await wire.send(first + look + second + broken + third + look)
    got = [await wire.answer() for _ in range(6)]
    assert [status for status, _, _ in got] == [201, 200, 201, 400, 409, 200]
    ids = [headers["x-request-id"] for _, headers, _ in got]
    assert (ids[0], ids[2], ids[3], ids[4]) == ("n0", "n1", "broken", "n2")


async def test_many_on_one_connection(api: Api, organizer: Person):
    event = await api.on_sale(organizer, capacity=30)
    member, wire = await api.person(), await Wire.to(api)
    for number in range(30):
        await wire.send(request(member, event, idempotency_key=f"many-{number}"), pause=0)
        assert (await wire.answer())[0] == 201


@pytest.mark.parametrize("path", [SHORT, LONG])
async def test_connection_close(api: Api, organizer: Person, path: str):
    event = await api.on_sale(organizer, capacity=2)
    for version, sent in (("1.1", {"connection": "close"}), ("1.0", {})):
        wire = await Wire.to(api)
        await wire.send(request(await api.person(), event, path=path, version=version, **sent))
        status, headers, _ = await wire.answer()
        assert (status, headers["connection"]) == (201, "close")
        assert await wire.ended()


async def test_expect_100_continue(api: Api, organizer: Person):
    event = await api.on_sale(organizer, capacity=1)
    wire = await Wire.to(api)
    whole = request(await api.person(), event, expect="100-continue")
    head, _, body = whole.partition(b"\r\n\r\n")
    await wire.send(head + b"\r\n\r\n")
    assert (await wire.answer())[0] == 100
    await wire.send(body)
    assert (await wire.answer())[0] == 201


async def test_a_body_over_the_bound(api: Api, organizer: Person):
    event = await api.on_sale(organizer, capacity=1)
    for chunked in (False, True):
        wire = await Wire.to(api)
        body = json.dumps({**wish(event), "x": "y" * 70_000}).encode()
        await wire.send(request(await api.person(), event, body=body, chunked=chunked))
        status, _, problem = await wire.answer()
        assert (status, problem["code"]) == (413, "payload_too_large")
    assert (await api.left(event))["available"] == 1


async def test_a_client_that_leaves_keeps_its_hold(api: Api, organizer: Person):
    """It was accepted; the same key fetches it, and nothing on the server minds."""
    event = await api.on_sale(organizer, capacity=1)
    member, wire = await api.person(), await Wire.to(api)
    await wire.send(request(member, event, idempotency_key="left"), pause=0)
    wire.writer.transport.abort()
    await eventually(lambda: api.left(event), lambda left: left["held"] == 1, 5)
    again = await Wire.to(api)
    await again.send(request(member, event, idempotency_key="left"))
    status, headers, _ = await again.answer()
    assert (status, headers["idempotent-replayed"]) == (201, "true")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"[]", {}),
        (b'{"event_id":1}', {}),
        (b"\xff", {}),
        (None, {"authorization": "Bearer nonsense"}),
        (None, {"authorization": ""}),
        (None, {"idempotency_key": "k" * 256}),
        (None, {"prefer": "wait=5", "idempotency_key": "same"}),
        (b'{"event_id":"x","ticket_type_id":"y","quantity":1}', {}),
        (None, {"accept_language": "ko", "idempotency_key": "한"}),
    ],
)
async def test_both_ways_say_the_same(
    api: Api, organizer: Person, body: bytes | None, headers: dict[str, str]
):
    event = await api.on_sale(organizer, capacity=1)
    member = await api.person()
    told = []
    for path in (SHORT, LONG):
        wire = await Wire.to(api)
        raw = request(member, event, path=path, body=body, **headers)
        await wire.send(raw)
        status, got, content = await wire.answer()
        content.pop("instance", None)
        kept = {k: v for k, v in got.items() if k not in ("date", "x-request-id", "content-length")}
        told.append((status, {k: v for k, v in kept.items() if "replayed" not in k}, content))
    assert told[0] == told[1]


async def test_reads_say_the_same_both_ways(api: Api, organizer: Person):
    """From memory and from the database, with and without a query or a body."""
    event = await api.on_sale(organizer, capacity=3)
    wire = await Wire.to(api)
    for path in (f"/v1/events/{event['id']}", f"/v1/events/{event['id']}/availability"):
        told = []
        for line, body in ((path, b""), (path, b""), (f"{path}?", b""), (path, b"{}")):
            head = f"GET {line} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            await wire.send(head.encode() + body)
            status, headers, content = await wire.answer()
            content.pop("as_of", None)
            told.append((status, headers["content-type"], headers["cache-control"], content))
        assert all(answer == told[0] for answer in told)
        assert told[0][0] == 200


async def test_a_read_with_a_token_is_not_the_public_one(api: Api, organizer: Person):
    draft = await api.draft(organizer)
    wire = await Wire.to(api)
    for token, expected in ((f"authorization: Bearer {organizer.token}\r\n", 200), ("", 404)):
        await wire.send(f"GET /v1/events/{draft['id']} HTTP/1.1\r\nhost: x\r\n{token}\r\n".encode())
        assert (await wire.answer())[0] == expected

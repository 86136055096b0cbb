"""Heads of requests have a bound, and what refusals remember of them has one too."""

from korder.kernel.errors import Code
from korder.platform.http import problem
from korder.platform.http.protocol import HEAD_MAX_BYTES
from tests.contract.client import Api
from tests.contract.test_fast_protocol import SHORT, Wire

CHUNK = b"a" * 65_536
TOO_LONG = b"HTTP/1.1 431 "


async def cut_off(api: Api, *first: bytes, more: bytes = CHUNK) -> bool:
    """Whether a request that goes on and on is ended before 16 MiB of it have been sent."""
    wire = await Wire.to(api)
    try:
        await wire.send(*first)
        for _ in range(256):
            await wire.send(more, pause=0)
    except ConnectionError:
        return True
    finally:
        wire.writer.close()
    return False


async def test_a_head_without_end(api: Api):
    start = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"
    for more in (CHUNK, b"x-a: b\r\n" * 8192):
        assert await cut_off(api, start + b"x-long: ", more=more)
    assert await cut_off(api, b"GET /health/live?")
    assert await cut_off(api, f"POST {SHORT} HTTP/1.1\r\nhost: x\r\nx-long: ".encode())


async def test_it_is_told_so_once(api: Api):
    wire = await Wire.to(api)
    long = b"a" * (HEAD_MAX_BYTES + 1)
    await wire.send(b"GET /health/live HTTP/1.1\r\nx-long: ", long)
    assert (await wire.reader.read()).startswith(TOO_LONG)


async def test_a_trailer_without_end(api: Api):
    start = b"POST /v1/auth/login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert await cut_off(api, start + b"2\r\n{}\r\n0\r\nx-trailer: ")


async def test_a_long_head_within_the_bound(api: Api):
    wire = await Wire.to(api)
    half = b"x-long: " + b"a" * (HEAD_MAX_BYTES // 2) + b"\r\n"
    for _ in range(3):  # it is counted anew for each request
        await wire.send(b"GET /health/live HTTP/1.1\r\nhost: x\r\n", half, b"\r\n")
        status, _, body = await wire.answer()
        assert (status, body) == (200, {"status": "ok"})


def test_long_languages_are_not_remembered():
    kept = problem._plain_answer.cache_info().currsize
    for number in range(10):
        language = b"ko," + b"x" * problem.LANGUAGE_KEPT_BYTES + b"%d" % number
        _, headers, _ = problem.plain_answer(Code.SOLD_OUT.value, language, "/v1/reservations")
        assert (b"content-language", b"ko") in headers
    assert problem._plain_answer.cache_info().currsize == kept

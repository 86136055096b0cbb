"""Signing out and rotating keys on a whole system with two API processes, also while parts die."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from korder.kernel.ids import new_id
from tests.crash.running import Up, eventually, korder, up

PASSWORD = "a quiet morning"
#: The contract's bound on how long a signed-out access token still works.
SIGNED_OUT_S = 5.0
APIS = ("api-1", "api-2")


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[Up]:
    async with up("--api-processes", "2") as system:
        yield system


class Client:
    """One HTTP connection, so that the same API process answers every time."""

    def __init__(self, base_url: str) -> None:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=60)
        self._http = httpx.AsyncClient(base_url=base_url, limits=limits, timeout=20)

    async def post(self, path: str, body: dict[str, Any], token: str = "") -> httpx.Response:
        return await self._http.post(path, json=body, headers=bearer(token))

    async def me(self, token: str) -> int:
        return (await self._http.get("/v1/users/me", headers=bearer(token))).status_code

    async def kids(self) -> set[str]:
        keys = (await self._http.get("/.well-known/jwks.json")).json()["keys"]
        return {key["kid"] for key in keys}

    async def signed_in(self) -> dict[str, Any]:
        """A new member's tokens."""
        email = f"{new_id()}@example.com"
        made = await self.post(
            "/v1/auth/signup", {"email": email, "password": PASSWORD, "name": "민아"}
        )
        assert made.status_code == 201, made.text
        told = await self.post("/v1/auth/login", {"email": email, "password": PASSWORD})
        assert told.status_code == 200, told.text
        return told.json()

    async def sign_out(self, tokens: dict[str, Any]) -> None:
        body = {"refresh_token": tokens["refresh_token"]}
        done = await self.post("/v1/auth/logout", body, tokens["access_token"])
        assert done.status_code == 204, done.text

    async def close(self) -> None:
        await self._http.aclose()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def kid(token: str) -> str:
    header = token.split(".", maxsplit=1)[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["kid"])


@asynccontextmanager
async def one_client_each(system: Up) -> AsyncIterator[list[Client]]:
    """A connection to each API process: the others sleep while it is made."""
    clients = []
    for name in APIS:
        others = [system.child(other) for other in APIS if other != name]
        for other in others:
            other.suspend()
        try:
            client = Client(system.base_url)
            assert await client.kids()
            clients.append(client)
        finally:
            for other in others:
                other.resume()
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def valkey_works(_: Up) -> AsyncIterator[None]:
    yield


@asynccontextmanager
async def valkey_is_dead(system: Up) -> AsyncIterator[None]:
    """Killed, and its supervisor asleep, so that it stays dead."""
    os.kill(system.pid, signal.SIGSTOP)
    try:
        dead = system.child("valkey")
        dead.kill()
        yield
    finally:
        os.kill(system.pid, signal.SIGCONT)
    await system.respawned("valkey", dead.pid)
    await is_ready_again(system)


@asynccontextmanager
async def valkey_hangs(system: Up) -> AsyncIterator[None]:
    """Worse than dead: it takes connections and says nothing."""
    valkey = system.child("valkey")
    valkey.suspend()
    try:
        yield
    finally:
        valkey.resume()
    await is_ready_again(system)


async def is_ready_again(system: Up) -> None:
    async with httpx.AsyncClient(base_url=system.base_url, timeout=10) as http:

        async def ready() -> bool:
            return (await http.get("/health/ready")).status_code == 200

        await eventually(ready, "it is ready again")


@pytest.mark.parametrize("valkey", [valkey_works, valkey_is_dead, valkey_hangs])
async def test_a_signed_out_token_stops_working_on_every_process(running: Up, valkey):
    async with one_client_each(running) as clients:
        tokens = await clients[0].signed_in()
        token = tokens["access_token"]
        for client in clients:
            await eventually(lambda c=client: accepted(c, token), "every process accepts it")
        async with valkey(running):
            began = time.monotonic()
            await asyncio.wait_for(clients[1].sign_out(tokens), SIGNED_OUT_S)
            for client in clients:
                await eventually(
                    lambda c=client: refused(c, token),
                    "every process refuses it",
                    began + SIGNED_OUT_S - time.monotonic(),
                )
        assert [await client.me(token) for client in clients] == [401, 401]


async def accepted(client: Client, token: str) -> bool:
    return await client.me(token) == 200


async def refused(client: Client, token: str) -> bool:
    return await client.me(token) == 401


async def test_a_restarted_process_knows_who_signed_out(running: Up):
    client = Client(running.base_url)
    tokens = await client.signed_in()
    await client.sign_out(tokens)
    await client.close()
    apis = {name: running.child(name) for name in APIS}
    for name, process in apis.items():
        process.kill()
        await running.respawned(name, process.pid)
    answers = set()
    for _ in range(40):
        client = Client(running.base_url)
        answers.add(await client.me(tokens["access_token"]))
        await client.close()
    assert answers == {401}


async def test_rotating_the_keys_signs_nobody_out(running: Up):
    async with one_client_each(running) as clients:
        tokens = await clients[0].signed_in()
        old = tokens["access_token"]
        before = await clients[0].kids()
        status, out, err = await korder(
            "keys", "rotate", "--json", "--data-dir", str(running.data_dir)
        )
        assert status == 0, err
        new_kid = json.loads(out)["kid"]
        assert new_kid not in before

        async def published(client: Client) -> bool:
            return await client.kids() == before | {new_kid}

        for client in clients:
            await eventually(lambda c=client: published(c), "the new key is published")

        async def signs() -> str:
            nonlocal tokens
            body = {"refresh_token": tokens["refresh_token"]}
            tokens = (await clients[0].post("/v1/auth/refresh", body)).json()
            await asyncio.sleep(0.5)
            return tokens["access_token"] if kid(tokens["access_token"]) == new_kid else ""

        new = await eventually(signs, "the new key signs", 20)
        for client in clients:
            assert await client.me(old) == 200
            assert await client.me(new) == 200
        assert kid(old) in await clients[1].kids()


async def test_no_process_idles_while_another_drowns(running: Up):
    """One listening socket for all of them; the kernel hands out the connections as it likes."""
    port = int(running.base_url.rpartition(":")[2])
    counts: Counter[str] = Counter()
    async with contextlib.AsyncExitStack() as stack:

        async def shared() -> bool:
            clients = [Client(running.base_url) for _ in range(30)]
            for client in clients:
                stack.push_async_callback(client.close)
            await asyncio.gather(*(client.kids() for client in clients))
            counts.update({name: connections(running.child(name), port) for name in APIS})
            return min(counts[name] for name in APIS) > 0

        await eventually(shared, "both have connections")


def connections(process: psutil.Process, port: int) -> int:
    return sum(
        c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED
        for c in process.net_connections("tcp")
    )

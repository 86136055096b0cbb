"""Password hashing: its bound, its cost for nobody, and the event loop that goes on."""

import asyncio
import threading
import time

import pytest
from argon2 import PasswordHasher

from korder.domains.user import passwords as module
from korder.domains.user.passwords import Passwords
from korder.kernel.errors import Code, Refusal


@pytest.fixture
def passwords():
    made = Passwords(1, 2)
    yield made
    made.close()


async def test_a_password_is_verified_and_another_one_is_not(passwords) -> None:
    encoded = await passwords.hash("a quiet morning")
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(encoded, "a quiet morning")
    assert not await passwords.verify(encoded, "a quiet evening")
    assert not passwords.outdated(encoded)


@pytest.mark.parametrize("encoded", [None, "", "not a hash", "$argon2id$v=19$broken"])
async def test_nobody_has_no_password(passwords, encoded) -> None:
    assert not await passwords.verify(encoded, "a quiet morning")


async def test_nobody_costs_a_whole_verification(passwords, monkeypatch) -> None:
    seen = []
    hasher = passwords._hasher
    verify = PasswordHasher.verify
    monkeypatch.setattr(
        PasswordHasher, "verify", lambda self, *a: seen.append(a[0]) or verify(self, *a)
    )
    assert not await passwords.verify(None, "a quiet morning")
    assert len(seen) == 1
    assert not hasher.check_needs_rehash(seen[0])  # the same parameters as the real ones


async def test_a_hash_with_other_parameters_is_outdated(passwords) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash("a quiet morning")
    assert passwords.outdated(old)
    assert await passwords.verify(old, "a quiet morning")


async def test_past_the_bound_it_refuses_at_once(passwords) -> None:
    gate = threading.Event()
    try:
        busy = [asyncio.ensure_future(passwords._run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(Refusal) as refusal:
            await passwords.hash("a quiet morning")
        assert refusal.value.code is Code.OVERLOADED
        assert refusal.value.retry_after_s
        assert time.monotonic() - began < 0.5
    finally:
        gate.set()
    await asyncio.gather(*busy)
    assert await passwords.hash("a quiet morning")  # and takes the next once there is room


async def test_who_gives_up_keeps_the_place_until_the_thread_is_done(passwords) -> None:
    gate = threading.Event()
    try:
        running = asyncio.ensure_future(passwords._run(gate.wait))
        waiting = [asyncio.ensure_future(passwords._run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0.05)
        running.cancel()  # its thread cannot be stopped: the place stays taken
        waiting[0].cancel()  # this one has not begun: its place is free again
        await asyncio.sleep(0.05)
        third = asyncio.ensure_future(passwords._run(gate.wait))
        await asyncio.sleep(0.05)
        assert not third.done()
        with pytest.raises(Refusal):
            await passwords.hash("a quiet morning")
    finally:
        gate.set()
    assert await third


async def test_the_event_loop_goes_on_while_hashing(passwords) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.ensure_future(tick())
    await asyncio.gather(*(passwords.hash("a quiet morning") for _ in range(3)))
    ticking.cancel()
    assert ticks >= 5


def test_the_parameters_are_at_least_owasp() -> None:
    assert module.MEMORY_KIB >= 19 * 1024
    assert module.PASSES >= 2

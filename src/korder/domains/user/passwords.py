"""Password hashes (argon2id) off the event loop, and no more of them at once than cores."""

import asyncio
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from korder.domains.user.model import clean_password
from korder.kernel.errors import overloaded

#: OWASP Password Storage Cheat Sheet: 19 MiB, two passes, one lane. About 25 ms of a core.
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1

T = TypeVar("T")


class Passwords:
    """Hashes and verifies in `concurrency` threads (0: one per core).

    At most `queue_max` more calls wait; past it `overloaded` is raised at once, so that a flood of
    sign-ins costs neither the event loop nor memory beyond concurrency x 19 MiB.
    """

    def __init__(self, concurrency: int, queue_max: int) -> None:
        workers = concurrency or os.cpu_count() or 1
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="argon2")
        self._places = threading.BoundedSemaphore(workers + queue_max)
        # Of something nobody knows, made with the very parameters of the real ones.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """An encoded hash. Raises Refusal `overloaded`."""
        return await self._run(lambda: self._hasher.hash(clean_password(password)))

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether `password` made `encoded`; None (nobody, no password) takes as long to refuse.

        Raises Refusal `overloaded`.
        """
        return await self._run(lambda: self._verify(encoded, clean_password(password)))

    def outdated(self, encoded: str) -> bool:
        """Whether `encoded` was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """End the threads; calls still waiting are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, encoded: str | None, password: str) -> bool:
        try:
            return self._hasher.verify(encoded or self._nobody, password) and encoded is not None
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise overloaded()
        # The place is free when the thread is done, not when the waiting request gives up.
        try:
            future = self._threads.submit(work)
        except RuntimeError:  # shut down
            self._places.release()
            raise overloaded() from None
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

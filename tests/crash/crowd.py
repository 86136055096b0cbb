"""Shoppers who want one ticket after another, through whatever breaks.

Each has its own connection and asks for one ticket with a fresh Idempotency-Key; a broken
connection, a 503 and a 202 are answered with the same request again, until its final answer is
there. All they were ever told is kept, so that it can be compared with PostgreSQL.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from korder.kernel.ids import new_id
from korder.rush.stage import Stage
from korder.rush.wire import Address, Connection, Response, connect, request_bytes

#: An attempt waits longer than the server's own wait budget (5 s) and its time-outs.
ATTEMPT_S = 15.0
#: From first asking to the final answer; a crash may take 10 s to be mended.
PATIENCE_S = 30.0
#: Before the same request is sent again.
AGAIN_S = 0.05

Member = tuple[UUID, str]


@dataclass
class Purchase:
    """One key and all that came of it. Instants of time.monotonic()."""

    member: UUID
    token: str
    key: str
    began: float
    answered: float = 0.0
    status: int = 0
    code: str = ""
    id: UUID | None = None
    #: Broken connections, and answers 503 and 202, before the final answer.
    broken: int = 0
    refused: int = 0
    queued: int = 0
    #: Every id that any answer named, 202 included.
    ids: set[UUID] = field(default_factory=set)

    @property
    def held(self) -> bool:
        return self.status == 201


class Shopper:
    """One member with one connection."""

    def __init__(self, base_url: str, stage: Stage, member: Member) -> None:
        self._address = Address.of(base_url)
        self._member = member
        self._connection: Connection | None = None
        self._body = json.dumps(
            {
                "event_id": str(stage.event_id),
                "ticket_type_id": str(stage.ticket_type_id),
                "quantity": 1,
            }
        ).encode()

    async def buy(self, key: str | None = None) -> Purchase:
        """Ask for one ticket until the final answer is there (status 0 past the patience)."""
        member, token = self._member
        purchase = Purchase(member, token, key or str(new_id()), time.monotonic())
        request = request_bytes(
            self._address,
            "POST",
            "/v1/reservations",
            token,
            self._body,
            idempotency_key=purchase.key,
        )
        while time.monotonic() < purchase.began + PATIENCE_S:
            try:
                response = await self._ask(request)
            except (OSError, TimeoutError):
                purchase.broken += 1
                await asyncio.sleep(AGAIN_S)
                continue
            if self._is_final(purchase, response):
                break
            await asyncio.sleep(AGAIN_S)
        purchase.answered = time.monotonic()
        return purchase

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @staticmethod
    def _is_final(purchase: Purchase, response: Response) -> bool:
        answer: dict[str, Any] = json.loads(response.body)
        if "id" in answer:
            purchase.ids.add(UUID(answer["id"]))
        if response.status == 503:
            purchase.refused += 1
            return False
        if response.status == 202:
            purchase.queued += 1
            return False
        purchase.status = response.status
        purchase.code = answer.get("code", "")
        purchase.id = UUID(answer["id"]) if response.status == 201 else None
        return True

    async def _ask(self, request: bytes) -> Response:
        if self._connection is None or not self._connection.open:
            self._connection = await connect(self._address, timeout_s=5.0)
        try:
            return await asyncio.wait_for(self._connection.ask(request), ATTEMPT_S)
        except (OSError, TimeoutError):
            self._connection.close()
            raise


class Crowd:
    """Many shoppers at once; `purchases` grows while they shop."""

    def __init__(self, base_url: str, stage: Stage, members: Sequence[Member]) -> None:
        self.stage = stage
        self._shoppers = [Shopper(base_url, stage, member) for member in members]
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.purchases: list[Purchase] = []

    @property
    def held(self) -> list[Purchase]:
        return [purchase for purchase in self.purchases if purchase.held]

    def start(self, *, pause_s: float) -> None:
        """Let them shop until `stop` or until sold out, with `pause_s` on average in between."""
        self._task = asyncio.create_task(self._shop(pause_s))

    async def stop(self) -> None:
        """No new keys; returns when the last one has its answer."""
        self._stopping.set()
        assert self._task is not None
        await self._task

    async def buy_out(self) -> None:
        """Let them shop until everybody is told that nothing is left."""
        await self._shop(0.0)

    async def _shop(self, pause_s: float) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for shopper in self._shoppers:
                    group.create_task(self._errand(shopper, pause_s))
        finally:
            for shopper in self._shoppers:
                shopper.close()

    async def _errand(self, shopper: Shopper, pause_s: float) -> None:
        """Pauses are by chance, before the first request too, so that they do not march in step."""
        while not self._stopping.is_set():
            if pause_s:
                await asyncio.sleep(random.uniform(0, 2 * pause_s))  # noqa: S311 - no secret
            purchase = await shopper.buy()
            self.purchases.append(purchase)
            if not purchase.held:
                return


async def replayed(
    base_url: str, stage: Stage, purchases: Sequence[Purchase], *, at_once: int = 50
) -> list[Purchase]:
    """Send every one of these keys once more; the answers in the same order."""

    async def part(mine: Sequence[Purchase]) -> list[Purchase]:
        answers = []
        for purchase in mine:
            shopper = Shopper(base_url, stage, (purchase.member, purchase.token))
            answers.append(await shopper.buy(purchase.key))
            shopper.close()
        return answers

    parts = await asyncio.gather(*(part(purchases[n::at_once]) for n in range(at_once)))
    answers: list[Purchase] = [purchase for one in parts for purchase in one]
    by_key = {answer.key: answer for answer in answers}
    return [by_key[purchase.key] for purchase in purchases]

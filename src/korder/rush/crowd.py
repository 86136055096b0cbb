"""The crowd: everybody connects, waits for one signal, and then wants a ticket at once.

The time of an answer counts from the signal, not from when this process came round to sending:
what a late sender waits is part of what a member sees (no coordinated omission).
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from uuid import UUID

import msgspec

from korder.kernel.clock import rfc3339, utc_now
from korder.rush.plan import ERROR, HELD, OVERLOADED, Attempt, Buyer, Outcome, Plan, Progress
from korder.rush.wire import Address, Connection, Response, connect, request_bytes

#: Connections opened at once: below any sane backlog, so that none has to be tried again.
CONNECTING_MAX = 128
PROGRESS_S = 0.1
#: Between two looks at a queued reservation, unless the server asks for more.
POLL_S = 0.1
#: Before a broken connection is opened again; doubled each time up to the bound.
RECONNECT_S = 0.05
RECONNECT_MAX_S = 1.0


class _Answer(msgspec.Struct):
    """The fields of any answer that a buyer looks at."""

    id: UUID | None = None
    status: str | int = ""
    code: str = ""
    reason: str | None = None


_decoder = msgspec.json.Decoder(_Answer)


class Crowd:
    """One rush. `tell` gets a Progress a few times a second."""

    def __init__(self, plan: Plan, tell: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._address = Address.of(plan.base_url)
        self._body = json.dumps(
            {
                "event_id": str(plan.event_id),
                "ticket_type_id": str(plan.ticket_type_id),
                "quantity": plan.quantity,
            }
        ).encode()
        self._connected = self._answered = self._held = 0
        self._phase: str = "connecting"

    async def rush(self) -> Outcome:
        """Connect all, let all go, return when the last has its answer (or its patience ends).

        Raises OSError or TimeoutError when not even the connections can be made.
        """
        reporter = asyncio.create_task(self._report())
        try:
            began = time.perf_counter()
            connections = await self._connect_all()
            connect_s = time.perf_counter() - began
            purchases = [
                _Purchase(self, buyer, connection)
                for buyer, connection in zip(self._plan.buyers, connections, strict=True)
            ]
            self._phase = "rushing"
            started_at = rfc3339(utc_now())
            self._start = time.perf_counter()
            self._deadline = asyncio.get_running_loop().time() + self._plan.patience_s
            for purchase in purchases:  # nothing but writing, so that the last is not late
                purchase.fire()
            attempts = await asyncio.gather(*(self._buy(n, p) for n, p in enumerate(purchases)))
        finally:
            reporter.cancel()
        self._progress()
        return Outcome(started_at, connect_s, attempts)

    async def _connect_all(self) -> list[Connection]:
        places = asyncio.Semaphore(CONNECTING_MAX)

        async def one() -> Connection:
            async with places:
                connection = await connect(self._address, timeout_s=self._plan.connect_timeout_s)
            self._connected += 1
            return connection

        return await asyncio.gather(*(one() for _ in self._plan.buyers))

    async def _buy(self, number: int, purchase: "_Purchase") -> Attempt:
        try:
            async with asyncio.timeout_at(self._deadline):
                kind, status, reservation = await purchase.run()
            error = ""
        except TimeoutError:
            kind, status, reservation = purchase.last, 0, None
            error = f"no final answer within {self._plan.patience_s:g} s"
        # Not the loop's clock: under uvloop it has a resolution of 1 ms.
        answered_ms = (time.perf_counter() - self._start) * 1000
        purchase.connection.close()
        self._answered += 1
        self._held += kind == HELD
        return Attempt(
            number,
            kind,
            status,
            purchase.queued,
            round(answered_ms, 3),
            reservation,
            purchase.retries,
            purchase.broken,
            error or purchase.error,
        )

    def post(self, buyer: Buyer) -> bytes:
        """The reservation request of a buyer."""
        return request_bytes(
            self._address,
            "POST",
            "/v1/reservations",
            buyer.token,
            self._body,
            idempotency_key=buyer.key,
        )

    def poll(self, buyer: Buyer, reservation: UUID) -> bytes:
        """The question what became of a queued one."""
        return request_bytes(self._address, "GET", f"/v1/reservations/{reservation}", buyer.token)

    async def reconnect(self) -> Connection:
        """A new connection for a buyer whose own broke."""
        return await connect(self._address, timeout_s=self._plan.connect_timeout_s)

    def _progress(self) -> None:
        self._tell(
            Progress(
                "rushing" if self._phase == "rushing" else "connecting",
                self._connected,
                self._answered,
                self._held,
            )
        )

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            self._progress()


class _Purchase:
    """One buyer's way to a final answer: the same key through every repetition."""

    def __init__(self, crowd: Crowd, buyer: Buyer, connection: Connection) -> None:
        self._crowd = crowd
        self._buyer = buyer
        self._request = crowd.post(buyer)
        self.connection = connection
        self._fired: asyncio.Future[Response] | None = None
        self.queued = False
        self.retries = 0
        self.broken = 0
        self.error = ""
        #: What it is if time runs out now.
        self.last = ERROR

    def fire(self) -> None:
        """Send the first request; a connection that broke meanwhile is seen by `run`."""
        with contextlib.suppress(OSError):
            self._fired = self.connection.ask(self._request)

    async def run(self) -> tuple[str, int, UUID | None]:
        """Kind, status and reservation id of the final answer. The caller sets the bound."""
        while True:
            response = await self._ask(self._request)
            if response.status == 503:
                self.retries += 1
                self.last = OVERLOADED
                await asyncio.sleep(_retry_after_s(response, 1.0))
                continue
            try:
                answer = _decoder.decode(response.body)
            except msgspec.MsgspecError:
                self.error = f"status {response.status} with a body that is not the contract's"
                return ERROR, response.status, None
            if response.status == 202 and answer.id is not None:
                self.queued = True
                self.last = ERROR
                return await self._wait_for(answer.id)
            return self._final(response.status, answer)

    async def _wait_for(self, reservation: UUID) -> tuple[str, int, UUID | None]:
        question = self._crowd.poll(self._buyer, reservation)
        while True:
            response = await self._ask(question)
            if response.status == 200:
                answer = _decoder.decode(response.body)
                if answer.status == "rejected":
                    return answer.reason or ERROR, 200, reservation
                if answer.status != "queued":
                    return str(answer.status), 200, reservation
            elif response.status != 503:
                self.error = f"status {response.status} for a queued reservation"
                return ERROR, response.status, None
            await asyncio.sleep(min(_retry_after_s(response, POLL_S), 1.0))

    def _final(self, status: int, answer: _Answer) -> tuple[str, int, UUID | None]:
        if status == 201 and answer.id is not None:
            return str(answer.status), status, answer.id
        if status >= 500 or not answer.code:
            self.error = f"status {status} {answer.code}".strip()
            return ERROR, status, None
        return answer.code, status, None

    async def _ask(self, request: bytes) -> Response:
        wait_s = RECONNECT_S
        while True:
            try:
                if self._fired is not None:
                    fired, self._fired = self._fired, None
                    return await fired
                if not self.connection.open:
                    self.connection = await self._crowd.reconnect()
                return await self.connection.ask(request)
            except (OSError, TimeoutError):
                self.broken += 1
                self.connection.close()
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RECONNECT_MAX_S)


def _retry_after_s(response: Response, default_s: float) -> float:
    """The server's wish in seconds."""
    try:
        return max(float(response.headers[b"retry-after"]), 0.05)
    except (KeyError, ValueError):
        return default_s

"""POST /v1/reservations.

One request costs: a look at the token cache, one msgspec decode, one dictionary look-up for the
sale, one short hash, one 75-byte record. Everything that can be refused without the gate is
refused here, and what the gate refuses never reaches PostgreSQL.

`begin` is the short way, without a task or a future: it takes the requests that need nothing to
be looked up, which in a rush are all of them. `reserve` is the ASGI route, which can do the rest.
"""

import contextlib
from functools import partial
from uuid import UUID

import msgspec

from korder.domains.reservation import model
from korder.domains.reservation.gate import OVERLOADED, QUEUED, Answer, Gate
from korder.domains.reservation.order import (
    Order,
    ReserveBody,
    order_of,
    refused_here,
    uuid_of,
)
from korder.domains.reservation.record import NO_DIGEST, REQUEST
from korder.domains.reservation.replies import Replies
from korder.domains.reservation.service import ReservationService
from korder.domains.reservation.snapshots import SaleSnapshot, Snapshots
from korder.kernel.errors import Code, Refusal
from korder.platform.auth import Authenticator
from korder.platform.http.edge import Call, Pending, Reply
from korder.platform.http.framework import decode_problem
from korder.platform.http.strict import decode
from korder.platform.valkey import UNAVAILABLE

#: Refusals that an older use of the key may contradict; the others nothing can have preceded.
#: (A tuple is searched by identity first; a set would call the enum's hash, which is Python.)
_MAY_BE_OLD = (
    Code.SOLD_OUT,
    Code.LIMIT_EXCEEDED,
    Code.SALE_CLOSED,
    Code.IDEMPOTENCY_CONFLICT,
)

#: What the gate says with one letter and the worker with the same.
_REFUSALS: dict[bytes, Code] = {
    **model.REASONS,
    OVERLOADED: Code.OVERLOADED,
    b"U": Code.OVERLOADED,
}
_decoder = msgspec.json.Decoder(ReserveBody)


class ReserveRoutes:
    """One per API process."""

    def __init__(
        self,
        authenticator: Authenticator,
        snapshots: Snapshots,
        gate: Gate,
        service: ReservationService,
    ) -> None:
        self._auth = authenticator
        self._snapshots = snapshots
        self._gate = gate
        self._service = service
        gate.remember = self._remember_again
        self.replies = Replies()

    # -- the short way

    def begin(self, call: Call, body: bytes, pending: Pending) -> Reply | bool:
        """Take a request whose body is whole, without waiting for anything.

        Returns its reply, or True when `pending` will get it, or False: nothing has been done,
        and `reserve` can do it. Never raises a Refusal; whatever it cannot take it leaves.
        """
        headers = call.headers
        if b"prefer" in headers:
            return False
        try:
            authorization = headers.get(b"authorization")
            principal = self._auth.cached(authorization) or self._auth.authenticate(authorization)
            asked = _decoder.decode(body)
            sale = self._snapshots.get(asked.ticket_type_id)
            if sale is None or sale.event_text != asked.event_id:
                return False
            order = order_of(call, principal, sale, asked.quantity)
        except (Refusal, msgspec.MsgspecError, UnicodeDecodeError):
            return False
        code = refused_here(order)
        if code is not None:
            return self.replies.refused(call, code) if self._is_final(order, code) else False
        self._gate.put(sale.shard, order.id, order.record, partial(self._answered, order, pending))
        return True

    def _answered(self, order: Order, pending: Pending, answer: Answer) -> None:
        reply = self._at_once(order, answer)
        if reply is None:
            pending.later(self._looked_up(order, answer, respond_async=False))
        else:
            pending.respond(reply)

    # -- the ASGI route

    async def reserve(self, call: Call) -> Reply:
        """Everything that `begin` leaves: errors, what must be looked up, `Prefer`."""
        principal = await self._auth.authenticate_fresh(call.headers.get(b"authorization"))
        asked = _parse(await call.body())
        sale = self._snapshots.get(asked.ticket_type_id)
        if sale is None or sale.event_text != asked.event_id:
            sale = await self._find(asked)
        order = order_of(call, principal, sale, asked.quantity)
        code = refused_here(order)
        if code is not None:
            return await self._refused(order, code)
        respond_async = _prefers_async(call.headers.get(b"prefer", b""))
        answer = await self._gate.submit(
            sale.shard, order.id, order.record, respond_async=respond_async
        )
        reply = self._at_once(order, answer)
        return reply or await self._looked_up(order, answer, respond_async=respond_async)

    async def _find(self, asked: ReserveBody) -> SaleSnapshot:
        """The slow way to a sale: an id in other letters, or one not seen before."""
        event, ticket_type = uuid_of(asked.event_id), uuid_of(asked.ticket_type_id)
        bad = [
            (name, "uuid")
            for name, value in (("event_id", event), ("ticket_type_id", ticket_type))
            if value is None
        ]
        if bad:
            raise Refusal(Code.INVALID_REQUEST, fields=tuple(bad))
        text = str(ticket_type)
        sale = self._snapshots.get(text) or await self._snapshots.load(text)
        if sale is None or sale.event_text != str(event):
            raise Refusal(Code.NOT_FOUND)
        return sale

    # -- from the gate's answer to the client's

    def _at_once(self, order: Order, answer: Answer) -> Reply | None:
        """The reply, if nothing has to be looked up or written for it."""
        if answer.code == model.HELD:
            return self.replies.held(order, answer)
        if answer.code in (QUEUED, model.KEY_KNOWN):
            return None
        code = _REFUSALS[answer.code]
        if code is Code.SOLD_OUT and not answer.replayed:  # a replay is as old as its key
            order.sale.remember_sold_out(order.quantity)
        if self._is_final(order, code):
            return self.replies.refused(order.call, code, replayed=answer.replayed)
        return None

    async def _looked_up(self, order: Order, answer: Answer, *, respond_async: bool) -> Reply:
        if answer.code == QUEUED:
            # By the id that is told, which is another's when the key was in use already.
            record = answer.id + order.record[len(answer.id) :]
            await self._service.remember_queued(record, order.sale.event_raw)
            return self.replies.queued(answer, respond_async=respond_async)
        if answer.code == model.KEY_KNOWN:
            return await self._by_key(order) or self.replies.refused(order.call, Code.OVERLOADED)
        return await self._refused(order, _REFUSALS[answer.code], replayed=answer.replayed)

    def _is_final(self, order: Order, code: Code) -> bool:
        """Whether no older use of the key can have been answered otherwise."""
        return (
            order.digest is NO_DIGEST
            or code not in _MAY_BE_OLD
            or not self._gate.may_have_forgotten(order.sale.shard, order.sale.opens_s, code)
        )

    async def _refused(self, order: Order, code: Code, *, replayed: bool = False) -> Reply:
        """A refusal, unless this very key was answered otherwise before the gate can remember."""
        found = None if self._is_final(order, code) else await self._by_key(order)
        return found or self.replies.refused(order.call, code, replayed=replayed)

    async def _by_key(self, order: Order) -> Reply | None:
        """The answer that this key had, from PostgreSQL's unique index; None if it had none."""
        row = await self._service.by_key(order.principal.member_raw, order.digest)
        if row is None:
            return None
        if row["fingerprint"] != order.fingerprint:
            return self.replies.refused(order.call, Code.IDEMPOTENCY_CONFLICT)
        return self.replies.of_row(order.call, row)

    async def _remember_again(self, record: bytes) -> None:
        sale = self._snapshots.get(str(UUID(bytes=REQUEST.unpack(record)[2])))
        if sale is not None:
            with contextlib.suppress(*UNAVAILABLE):
                await self._service.remember_queued(record, sale.event_raw)


def _prefers_async(prefer: bytes) -> bool:
    """Whether `respond-async` is among the preferences (RFC 7240, section 2)."""
    preferences = (part.partition(b";")[0].strip().lower() for part in prefer.split(b","))
    return b"respond-async" in preferences


def _parse(body: bytes) -> ReserveBody:
    try:
        return decode(_decoder, body)
    except msgspec.MsgspecError as error:
        raise decode_problem(error) from None

"""The raw routes of the reserve path: POST /v1/reservations and the availability of an event.

One request costs: a look at the token cache, one msgspec decode, one dictionary look-up for the
sale, two short hashes, one 75-byte record, one future. Everything that can be refused without the
gate is refused here, and what the gate refuses never reaches PostgreSQL.
"""

import contextlib
import time
from collections import Counter
from hashlib import sha256
from typing import Annotated
from uuid import UUID

import msgspec

from korder.domains.reservation import model
from korder.domains.reservation.gate import OVERLOADED, QUEUED, Answer, Gate
from korder.domains.reservation.record import HAS_KEY, NO_DIGEST, REQUEST
from korder.domains.reservation.service import ReservationService
from korder.domains.reservation.snapshots import SaleSnapshot, Snapshots
from korder.kernel.clock import from_micros, rfc3339, to_micros
from korder.kernel.errors import Code, Refusal
from korder.kernel.ids import id_text, new_id_bytes
from korder.platform.auth import Authenticator, Principal
from korder.platform.http.edge import Call, Reply
from korder.platform.http.framework import decode_problem
from korder.platform.http.strict import decode
from korder.platform.idempotency import check_key
from korder.platform.valkey import UNAVAILABLE

QUANTITY_MAX = 100
_JSON = (b"content-type", b"application/json")
_REPLAYED = (b"idempotent-replayed", b"true")
_HELD = (
    b'{"id":"%b","event_id":"%b","ticket_type_id":"%b","quantity":%d,"status":"held",'
    b'"amount":%d,"currency":"%b","expires_at":"%b","created_at":"%b"}'
)
_NO_FINGERPRINT = bytes(8)

#: Refusals that an older use of the key may contradict; the others nothing can have preceded.
_MAY_BE_OLD = frozenset({Code.SOLD_OUT, Code.LIMIT_EXCEEDED, Code.SALE_CLOSED})

#: What the gate says with one letter and the worker with the same.
_REFUSALS: dict[bytes, Code] = {
    **model.REASONS,
    OVERLOADED: Code.OVERLOADED,
    b"U": Code.OVERLOADED,
}


class ReserveBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/reservations. The ids are checked against the sale, not parsed."""

    event_id: str
    ticket_type_id: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]


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
        #: Answers by kind, read by the metrics exporter.
        self.answers: Counter[str] = Counter()
        self._instants: dict[int, bytes] = {}

    async def reserve(self, call: Call) -> Reply:
        """POST /v1/reservations."""
        headers = call.headers
        authorization = headers.get(b"authorization")
        principal = self._auth.cached(authorization)
        if principal is None:
            principal = await self._auth.authenticate_fresh(authorization)
        message = await call.receive()
        raw = message.get("body", b"")
        if message.get("more_body") or not 0 < len(raw) <= call.body_max:
            raw = await call.rest_of_body(message)
        body = _parse(raw)
        sale = self._snapshots.get(body.ticket_type_id)
        if sale is None or sale.event_text != body.event_id:
            sale = await self._find(body)
        key = headers.get(b"idempotency-key")
        digest, fingerprint = _key_of(principal, key, sale, body.quantity)
        now = time.time()
        if not sale.opens_s <= now < sale.closes_s or sale.cancelled:
            code = _outside(sale, now)
            return await self._refused(call, principal, sale, digest, fingerprint, code)
        if key is None and now < sale.sold_out_until and body.quantity >= sale.sold_out_quantity:
            return self._refuse(call, Code.SOLD_OUT)

        rid = new_id_bytes()
        record = REQUEST.pack(
            rid,
            principal.member_raw,
            sale.type_raw,
            digest,
            fingerprint,
            body.quantity,
            0 if key is None else HAS_KEY,
        )
        prefer = headers.get(b"prefer")
        respond_async = prefer is not None and b"respond-async" in prefer.lower()
        answer = await self._gate.submit(sale.shard, rid, record, respond_async=respond_async)
        if answer.code == model.HELD:
            return self._held(
                sale.event_ascii, sale.type_ascii, sale.currency, body.quantity, answer
            )
        if answer.code == QUEUED:
            return await self._queued(record, sale, answer, respond_async=respond_async)
        if answer.code == model.KEY_KNOWN:
            found = await self._by_key(call, principal, digest, fingerprint)
            return found or self._refuse(call, Code.OVERLOADED)
        if answer.code == model.SOLD_OUT:
            sale.remember_sold_out(body.quantity, now)
        code = _REFUSALS[answer.code]
        return await self._refused(call, principal, sale, digest, fingerprint, code, answer)

    async def availability(self, call: Call) -> Reply:
        """GET /v1/events/{id}/availability."""
        event_text = call.path[len("/v1/events/") : -len("/availability")]
        found = self._service.availability_cached(event_text)
        if found is None:
            event_id = _uuid(event_text)
            found = await self._service.availability_json(event_id) if event_id else None
        if found is None:
            raise Refusal(Code.NOT_FOUND)
        headers = [
            _JSON,
            (b"content-length", b"%d" % len(found)),
            (b"cache-control", b"public, max-age=0, s-maxage=1"),
        ]
        return 200, headers, found

    # -- what it takes

    async def _find(self, body: ReserveBody) -> SaleSnapshot:
        """The slow way to a sale: an id in other letters, or one not seen before."""
        event, ticket_type = _uuid(body.event_id), _uuid(body.ticket_type_id)
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

    async def _remember_again(self, record: bytes) -> None:
        sale = self._snapshots.get(str(UUID(bytes=REQUEST.unpack(record)[2])))
        if sale is not None:
            with contextlib.suppress(*UNAVAILABLE):
                await self._service.remember_queued(record, sale.event_raw)

    # -- what it answers

    def _held(
        self, event: bytes, ticket_type: bytes, currency: bytes, quantity: int, answer: Answer
    ) -> Reply:
        self.answers["held"] += 1
        rid = id_text(answer.id).encode()
        _, _, created_us, expires_us, amount, replayed = answer
        instants = self._instants
        body = _HELD % (
            rid,
            event,
            ticket_type,
            quantity,
            amount,
            currency,
            instants.get(expires_us) or self._instant(expires_us),
            instants.get(created_us) or self._instant(created_us),
        )
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        if replayed:
            headers.append(_REPLAYED)
        return 201, headers, body

    async def _queued(
        self, record: bytes, sale: SaleSnapshot, answer: Answer, *, respond_async: bool
    ) -> Reply:
        self.answers["queued"] += 1
        if not answer.replayed:
            await self._service.remember_queued(record, sale.event_raw)
        rid = id_text(answer.id).encode()
        body = b'{"id":"%b","status":"queued"}' % rid
        headers = [
            _JSON,
            (b"content-length", b"%d" % len(body)),
            (b"location", b"/v1/reservations/" + rid),
            (b"retry-after", b"1"),
        ]
        if respond_async:
            headers.append((b"preference-applied", b"respond-async"))
        if answer.replayed:
            headers.append(_REPLAYED)
        return 202, headers, body

    async def _refused(
        self,
        call: Call,
        principal: Principal,
        sale: SaleSnapshot,
        digest: bytes,
        fingerprint: bytes,
        code: Code,
        answer: Answer | None = None,
    ) -> Reply:
        """A refusal, unless this very key was answered otherwise before the gate can remember."""
        replayed = answer is not None and answer.replayed
        may_be_old = digest != NO_DIGEST and code in _MAY_BE_OLD and not replayed
        if may_be_old and self._gate.may_have_forgotten(sale.shard, sale.opens_s, code):
            found = await self._by_key(call, principal, digest, fingerprint)
            if found is not None:
                return found
        reply = self._refuse(call, code)
        if replayed:
            reply[1].append(_REPLAYED)
        return reply

    def _refuse(self, call: Call, code: Code) -> Reply:
        self.answers[code.value] += 1
        return call.refuse_plainly(code)

    async def _by_key(
        self, call: Call, principal: Principal, digest: bytes, fingerprint: bytes
    ) -> Reply | None:
        """The answer that this key had, from PostgreSQL's unique index; None if it had none."""
        row = await self._service.by_key(principal.member_raw, digest)
        if row is None:
            return None
        if row["fingerprint"] != fingerprint:
            return self._refuse(call, Code.IDEMPOTENCY_CONFLICT)
        if row["status"] == "rejected":
            reply = self._refuse(call, Code(row["reason"]))
            reply[1].append(_REPLAYED)
            return reply
        answer = Answer(
            model.HELD,
            row["id"].bytes,
            to_micros(row["created_at"]),
            to_micros(row["expires_at"]),
            row["amount"],
            replayed=True,
        )
        event, ticket_type = str(row["event_id"]).encode(), str(row["ticket_type_id"]).encode()
        return self._held(event, ticket_type, row["currency"].encode(), row["quantity"], answer)

    def _instant(self, micros: int) -> bytes:
        """RFC 3339 of an instant; a whole batch shares two of them."""
        if len(self._instants) >= 64:
            self._instants.clear()
        found = self._instants[micros] = rfc3339(from_micros(micros)).encode()
        return found


def _parse(body: bytes) -> ReserveBody:
    try:
        return decode(_decoder, body)
    except msgspec.MsgspecError as error:
        raise decode_problem(error) from None


def _key_of(
    principal: Principal, key: bytes | None, sale: SaleSnapshot, quantity: int
) -> tuple[bytes, bytes]:
    """Digest of member and key, and fingerprint of what is asked for."""
    if key is None:
        return NO_DIGEST, _NO_FINGERPRINT
    check_key(key)
    digest = sha256(principal.member_raw + key).digest()[:16]
    return digest, sale.fingerprint(quantity)


def _outside(sale: SaleSnapshot, now_s: float) -> Code:
    """Why the sale is not open by this server's clock; the worker looks again."""
    early = now_s < sale.opens_s and not sale.cancelled
    return Code.SALE_NOT_OPEN if early else Code.SALE_CLOSED


def _uuid(text: str) -> UUID | None:
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if len(text) == 36 else None

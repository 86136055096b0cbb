"""The answers of POST /v1/reservations as bytes: written out, since a crowd gets them."""

from collections import Counter
from typing import Any

from korder.domains.reservation import model
from korder.domains.reservation.order import Order
from korder.domains.reservation.waiters import Answer
from korder.kernel.clock import from_micros, rfc3339, to_micros
from korder.kernel.errors import Code
from korder.kernel.ids import id_text
from korder.platform.http.edge import Call, Reply

_JSON = (b"content-type", b"application/json")
_REPLAYED = (b"idempotent-replayed", b"true")
_HELD = (
    b'{"id":"%b","event_id":"%b","ticket_type_id":"%b","quantity":%d,"status":"held",'
    b'"amount":%d,"currency":"%b","expires_at":"%b","created_at":"%b"}'
)
#: Instants whose text is remembered: a whole batch shares two of them.
_INSTANTS_MAX = 64


class Replies:
    """One per API process; counts what it answers."""

    def __init__(self) -> None:
        #: Answers by kind, read by the metrics exporter.
        self.counts: Counter[str] = Counter()
        self._instants: dict[int, bytes] = {}

    def held(self, order: Order, answer: Answer) -> Reply:
        """201 with the held reservation."""
        sale = order.sale
        return self._held(sale.event_ascii, sale.type_ascii, sale.currency, order.quantity, answer)

    def queued(self, answer: Answer, *, respond_async: bool) -> Reply:
        """202 with where to ask."""
        self.counts["queued"] += 1
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

    def refused(self, call: Call, code: Code, *, replayed: bool = False) -> Reply:
        """The problem of a refusal that is nothing but its code."""
        self.counts[code._value_] += 1  # `value` is a Python call
        reply = call.refuse_plainly(code)
        if replayed:
            reply[1].append(_REPLAYED)
        return reply

    def of_row(self, call: Call, row: Any) -> Reply:
        """The answer that the decision in this row had, whatever became of it since."""
        if row["status"] == "rejected":
            return self.refused(call, Code(row["reason"]), replayed=True)
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

    def _held(
        self, event: bytes, ticket_type: bytes, currency: bytes, quantity: int, answer: Answer
    ) -> Reply:
        self.counts["held"] += 1
        _, rid, created_us, expires_us, amount, replayed = answer
        instants = self._instants
        body = _HELD % (
            id_text(rid).encode(),
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

    def _instant(self, micros: int) -> bytes:
        if len(self._instants) >= _INSTANTS_MAX:
            self._instants.clear()
        found = self._instants[micros] = rfc3339(from_micros(micros)).encode()
        return found

"""One request of POST /v1/reservations, decoded and checked: what is put before the gate."""

import time
from hashlib import sha256
from typing import Annotated, NamedTuple
from uuid import UUID

import msgspec

from korder.domains.reservation.record import HAS_KEY, NO_DIGEST, REQUEST
from korder.domains.reservation.snapshots import SaleSnapshot
from korder.kernel.errors import Code
from korder.kernel.ids import new_id_bytes
from korder.platform.auth import Principal
from korder.platform.http.edge import Call
from korder.platform.idempotency import check_key

QUANTITY_MAX = 100
_NO_FINGERPRINT = bytes(8)


class ReserveBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v1/reservations. The ids are checked against the sale, not parsed."""

    event_id: str
    ticket_type_id: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]


class Order(NamedTuple):
    """`digest` stands for member and key, `fingerprint` for what is asked for under it."""

    call: Call
    principal: Principal
    sale: SaleSnapshot
    quantity: int
    id: bytes
    digest: bytes
    fingerprint: bytes
    record: bytes


def order_of(call: Call, principal: Principal, sale: SaleSnapshot, quantity: int) -> Order:
    """The order of a request. Raises Refusal `invalid_request` for a key that is none."""
    key = call.headers.get(b"idempotency-key")
    if key is None:
        digest, fingerprint, flags = NO_DIGEST, _NO_FINGERPRINT, 0
    else:
        check_key(key)
        digest = sha256(principal.member_raw + key).digest()[:16]
        fingerprint, flags = sale.fingerprint(quantity), HAS_KEY
    rid = new_id_bytes()
    record = REQUEST.pack(
        rid, principal.member_raw, sale.type_raw, digest, fingerprint, quantity, flags
    )
    return Order(call, principal, sale, quantity, rid, digest, fingerprint, record)


def refused_here(order: Order) -> Code | None:
    """Why the sale is not open by this server's clock, or was sold out a moment ago.

    The worker looks at the window again. Who sends a key may have been answered otherwise before,
    which only the gate knows.
    """
    sale, now = order.sale, time.time()
    if sale.cancelled or now >= sale.closes_s:
        return Code.SALE_CLOSED
    if now < sale.opens_s:
        return Code.SALE_NOT_OPEN
    if now < sale.sold_out_until and order.digest is NO_DIGEST:
        return Code.SOLD_OUT if order.quantity >= sale.sold_out_quantity else None
    return None


def uuid_of(text: str) -> UUID | None:
    """A UUID in its usual 36 characters; None for anything else."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if len(text) == 36 else None

"""The fixed-width records that travel between API, gate and worker.

Fixed width keeps the gate's Lua to `string.sub` and the worker's parsing to one C loop
(`Struct.iter_unpack`). Big-endian throughout. The Lua side is described in `lua/00_record.lua`.
"""

import struct
import zlib
from typing import NamedTuple

SHARDS = 16
NO_DIGEST = bytes(16)

#: reservation id, member id, ticket type id, key digest, fingerprint, quantity, flags
REQUEST = struct.Struct(">16s16s16s16s8sHB")
#: reservation id, code, created µs, expires µs, amount in the minor unit
VERDICT = struct.Struct(">16scqqq")
#: member id, ticket type id, quantity
CREDIT = struct.Struct(">16s16sH")
#: fingerprint, mark, reservation id: what is kept for a key until the verdict
KEPT_PENDING = struct.Struct(">8sc16s")
#: ... and with the verdict: created µs, expires µs, amount
KEPT_HELD = struct.Struct(">8sc16sqqq")

HAS_KEY = 1
#: Set when the API submits again, after a rebuild, what the gate had accepted before it.
ACCEPTED_BEFORE = 2


class Request(NamedTuple):
    """One accepted request as the worker sees it."""

    id: bytes
    member: bytes
    ticket_type: bytes
    digest: bytes
    fingerprint: bytes
    quantity: int
    flags: int


def shard_of(event_raw: bytes) -> int:
    """The shard of an event: CRC-32 of its 16 bytes, modulo the fixed number of shards."""
    return zlib.crc32(event_raw) % SHARDS


class ShardKeys:
    """The names of one shard's keys; the hash tag keeps them in one Valkey Cluster slot."""

    __slots__ = ("allowance", "dead", "limit", "meta", "shard", "stock", "stream", "tag")

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.tag = b"{s%02d}" % shard
        self.meta = self.tag + b":meta"
        self.stock = self.tag + b":stock"
        self.limit = self.tag + b":limit"
        self.allowance = self.tag + b":allowance"
        self.stream = self.tag + b":stream"
        self.dead = self.tag + b":dead"

    def idempotency(self, period: int) -> bytes:
        """The hash of recent keys of one period (see `IDEMPOTENCY_PERIOD_S`)."""
        return b"%b:idem:%d" % (self.tag, period)

    def reply(self, address: bytes) -> bytes:
        """The list on which the API process at `address` waits for this shard's verdicts."""
        return b"%b:reply:%b" % (self.tag, address)


KEYS = tuple(ShardKeys(shard) for shard in range(SHARDS))

#: Keys are answered by the gate for one to two days (the contract promises one), then by
#: PostgreSQL's unique index. See docs/adr/0007 for what that costs.
IDEMPOTENCY_PERIOD_S = 86_400

#: Keys of one shard and period past which the gate remembers no more refusals (about 80 MB): a
#: crowd that is refused with ever new keys must not fill the memory.
KEYS_REMEMBERED_MAX = 1_000_000

GROUP = b"worker"
#: One constant consumer name: whoever holds the lease of a shard owns its pending entries.
CONSUMER = b"lease"

#: How long an undecided request can be asked for after its 202.
QUEUED_KEPT_S = 3600


def queued_key(reservation_raw: bytes) -> bytes:
    """What was asked for by a request that was told 202: member, event, ticket type, quantity."""
    return b"queued:" + reservation_raw.hex().encode()


def decided_key(reservation_raw: bytes) -> bytes:
    """The verdict (one byte) and key digest of a request whose verdict left no row of its own."""
    return b"decided:" + reservation_raw.hex().encode()

"""The records that Python and Lua must read alike."""

import re
from pathlib import Path
from uuid import uuid4

import pytest

from korder.domains import reservation
from korder.domains.reservation import record
from korder.domains.reservation.record import KEYS, REQUEST, SHARDS, Request, ShardKeys, shard_of
from tests.core import request_of

LUA = Path(reservation.__file__).with_name("lua")


def lua_layout() -> dict[str, tuple[int, int]]:
    """Field -> (first, last) byte, counted from one, as the header of 00_record.lua says."""
    text = (LUA / "00_record.lua").read_text()
    fields = text[text.index("--   1-16") : text.index("local RECORD")]
    header = " ".join(line.lstrip("- ") for line in fields.splitlines())
    found = re.findall(r"(\d+)(?:-(\d+))? ([a-z ]+?)(?= \(|,|$)", header)
    return {name: (int(first), int(last or first)) for first, last, name in found}


def test_the_lua_header_describes_the_python_record():
    sizes = {
        "reservation id": 16,
        "member id": 16,
        "ticket type id": 16,
        "idempotency key digest": 16,
        "request fingerprint": 8,
        "quantity": 2,
        "flags": 1,
    }
    expected, at = {}, 1
    for name, size in sizes.items():
        expected[name] = (at, at + size - 1)
        at += size
    assert lua_layout() == expected
    assert at - 1 == REQUEST.size == 75
    assert "local RECORD = 75" in (LUA / "00_record.lua").read_text()


def test_fields_lie_where_lua_cuts_them():
    request = Request(b"r" * 16, b"m" * 16, b"t" * 16, b"d" * 16, b"f" * 8, 0x0102, record.HAS_KEY)
    blob = REQUEST.pack(*request)
    assert blob[16:48] == b"m" * 16 + b"t" * 16  # Lua's 17-48: whose allowance it is
    assert blob[72:74] == b"\x01\x02"  # big-endian: 256 * byte 73 + byte 74
    assert blob[74] % 2 == 1


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (record.VERDICT, 41),
        (record.CREDIT, 34),
        (record.KEPT_PENDING, 25),
        (record.KEPT_HELD, 49),
    ],
)
def test_sizes_that_the_lua_files_name(layout, size):
    assert layout.size == size


def test_a_request_survives_the_wire():
    request = request_of(uuid4().bytes, quantity=100, key="k")
    assert Request._make(REQUEST.unpack(REQUEST.pack(*request))) == request


def test_shards_are_stable_and_used_evenly():
    assert shard_of(bytes(16)) == 0xECBB4B55 % SHARDS  # CRC-32 of 16 zero bytes
    counts = [0] * SHARDS
    for _ in range(3200):
        counts[shard_of(uuid4().bytes)] += 1
    assert min(counts) > 100


def test_every_key_of_a_shard_has_its_hash_tag():
    keys = ShardKeys(7)
    names = [getattr(keys, name) for name in ("meta", "stock", "limit", "allowance", "stream")]
    for name in [*names, keys.dead, keys.idempotency(1), keys.reply(b"x")]:
        assert name.startswith(b"{s07}:")
    assert len({k.meta for k in KEYS}) == SHARDS

"""Random interleavings of everything that can happen, against a small model, step by step.

The real gate functions, the real worker transaction, the real servers; only the clockwork between
them is hypothesis. After each step model and system agree on every verdict, count and counter. A
failure prints the blob that repeats it (`@reproduce_failure`); `KORDER_HYPOTHESIS_PROFILE=deep`
looks longer.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from korder.domains.reservation.batch import queries
from korder.domains.reservation.record import (
    ACCEPTED_BEFORE,
    KEPT_PENDING,
    KEYS,
    REQUEST,
    Request,
)
from korder.domains.reservation.release import end_holds, expire_due
from korder.platform import valkey
from korder.platform.postgres import open_batch_connection
from tests.core import Steps, forget_keys, request_of
from tests.factories import OnSale, make_sale
from tests.race.world import Entry, TicketType, World

T = TypeVar("T")

MEMBERS = [bytes([n]) * 16 for n in (1, 2, 3)]
#: Few tickets, few members, few keys: everything collides all the time.
ASKED = st.tuples(
    st.sampled_from(MEMBERS),
    st.integers(0, 1),  # which ticket type
    st.integers(1, 3),
    st.sampled_from([None, "a", "b"]),
)
PICK = st.integers(0, 1000)


class Bench:
    """The real thing on an event loop of its own, shared by all examples of a run."""

    def __init__(self, database_url: str, valkey_url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._urls = database_url, valkey_url
        self.run(self._connect())

    def run(self, work: Awaitable[T]) -> T:
        return self._loop.run_until_complete(work)

    async def _connect(self) -> None:
        conn = await open_batch_connection(self._urls[0], name="stateful")
        self.steps = Steps(conn, valkey.connect(self._urls[1]), "stateful")

    async def begin(self, sale: OnSale) -> None:
        """Nothing but this sale, and its gate open."""
        steps, conn = self.steps, self.steps.conn
        await conn.execute(
            "TRUNCATE reservations.inventory, reservations.reservations, reservations.outbox"
        )
        await steps.client.flushall()
        steps.shards = [sale.shard]
        await queries.put_sale(
            conn,
            event_id=sale.event_id.bytes,
            organizer_id=sale.sale.organizer_id.bytes,
            shard=sale.shard,
            version=1,
            currency="KRW",
            hold_seconds=300,
            opens_at=sale.sale.opens_at,
            closes_at=sale.sale.closes_at,
            ids=sale.types_raw,
            positions=[0, 1],
            capacities=[t.capacity for t in sale.sale.ticket_types],
            prices=[0, 0],
            limits=[2, None],
        )
        if not steps.leases.held:
            await steps.leases.maintain(conn)
        await steps.keeper.rebuild(conn, sale.shard)

    async def _close(self) -> None:
        await self.steps.client.aclose()
        self.steps.conn.terminate()

    def close(self) -> None:
        self.run(self._close())
        self._loop.close()


class Reservations(RuleBasedStateMachine):
    """The rules. `bench` is set by the test."""

    bench: Bench

    # -- beginning and end

    @initialize(capacities=st.tuples(st.integers(0, 6), st.integers(0, 6)))
    def on_sale(self, capacities: tuple[int, int]) -> None:
        self.sale = make_sale(*capacities, hold_seconds=300)
        self.keys = KEYS[self.sale.shard]
        limited, free = self.sale.types_raw
        types = {limited: TicketType(capacities[0], 2), free: TicketType(capacities[1], None)}
        self.sent: list[Request] = []
        #: Entries by stream id, as model entries, whether they are still in the stream or not.
        self.entries: dict[bytes, Entry] = {}
        self.last: Any = None
        self.steps = self.bench.steps
        self.run = self.bench.run
        self.run(self.bench.begin(self.sale))
        self.world = World(types)
        self.world.rebuild()

    def teardown(self) -> None:
        """Quiet again: everything is decided, settled and told, and then it must be exact."""
        if not hasattr(self, "world"):
            return
        self.redeliver()
        self.work()
        self.relay()
        self.reconcile()
        self.agrees()
        world = self.world
        assert not world.gate.stream
        live = world.truth.live()
        for key, kind in world.truth.types.items():
            assert 0 <= world.truth.held(key) <= kind.capacity
            assert world.gate.stock[key] == world.truth.left(key)
        assert all(count <= live[holder] for holder, count in world.gate.allowance.items())

    # -- members

    @rule(asked=st.lists(ASKED, min_size=1, max_size=4))
    def reserve(self, asked: list[tuple[bytes, int, int, str | None]]) -> None:
        types = self.sale.types_raw
        requests = [request_of(types[t], member, q, key) for member, t, q, key in asked]
        self.sent += requests
        self._admit(requests)

    @precondition(lambda self: self.sent)
    @rule(pick=PICK)
    def submit_again(self, pick: int) -> None:
        """As an API does that saw a new generation of the gate."""
        request = self.sent[pick % len(self.sent)]
        self._admit([request._replace(flags=request.flags | ACCEPTED_BEFORE)])

    @precondition(lambda self: self._held())
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        rid = self._held()[pick % len(self._held())]
        self.world.end(rid, "cancelled")
        member = self.world.truth.rows[rid].request.member

        async def cancel() -> None:
            async with self.steps.conn.transaction():
                row = await queries.lock_reservation(self.steps.conn, id=rid, member_id=member)
                assert row["status"] == "held"
                await end_holds(self.steps.conn, [{**row, "member_id": member}], "cancelled")

        self.run(cancel())

    @precondition(lambda self: self._held())
    @rule(picks=st.lists(PICK, min_size=1, max_size=3))
    def expire(self, picks: list[int]) -> None:
        held = self._held()
        due = list({held[pick % len(held)] for pick in picks})
        for rid in self._held():  # the sweeper tells the outbox in no promised order
            if rid in due:
                self.world.end(rid, "expired")

        async def expire() -> int:
            await self.steps.conn.execute(
                "UPDATE reservations.reservations SET expires_at = now() - interval '1 s'"
                " WHERE id = ANY($1::uuid[])",
                due,
            )
            return await expire_due(self.steps.conn)

        assert self.run(expire()) == len(due)

    @rule(which=st.integers(0, 1), capacity=st.integers(0, 8))
    def resize(self, which: int, capacity: int) -> None:
        ticket_type = self.sale.types_raw[which]
        limit = self.world.truth.types[ticket_type].limit
        agreed = self.world.resize(ticket_type, capacity)

        async def resize() -> bool:
            conn = self.steps.conn
            changed = await queries.change_ticket_type(
                conn, ticket_type_id=ticket_type, capacity=capacity, price=0, max_per_member=limit
            )
            if changed is not None:
                rows = queries.announce_types(conn, ticket_types=[ticket_type])
                [_ async for _ in rows]
            return changed is not None

        assert self.run(resize()) == agreed

    # -- the worker, and its deaths

    @rule(asked=st.lists(ASKED, min_size=1, max_size=4))
    def reserve_and_work(self, asked: list[tuple[bytes, int, int, str | None]]) -> None:
        self.reserve(asked)
        self.work()

    @precondition(lambda self: self._unread())
    @rule()
    def work(self) -> None:
        self._decide(self.run(self.steps.read()), settle=True)

    @precondition(lambda self: self._unread())
    @rule()
    def die_after_reading(self) -> None:
        self._match(self.run(self.steps.read()))

    @precondition(lambda self: self._unread())
    @rule()
    def die_after_committing(self) -> None:
        self._decide(self.run(self.steps.read()), settle=False)

    @precondition(lambda self: self._begun())
    @rule()
    def redeliver(self) -> None:
        self._decide(self.run(self.steps.pending()), settle=True)

    @precondition(lambda self: self._begun())
    @rule()
    def redeliver_and_die_again(self) -> None:
        self._decide(self.run(self.steps.pending()), settle=False)

    @precondition(lambda self: self.last)
    @rule()
    def settle_again(self) -> None:
        decided, entries, verdicts = self.last
        self.run(self.steps.settle(decided))
        self.world.settle(entries, verdicts)

    @precondition(lambda self: self.sent)
    @rule(picks=st.lists(PICK, min_size=1, max_size=3))
    def deliver_processed_entry_again(self, picks: list[int]) -> None:
        """As a Valkey that lost an acknowledgement: same records, straight into the stream."""
        requests = [self.sent[pick % len(self.sent)] for pick in picks]
        self.world.gate.stream.append(Entry(requests))
        blob = b"".join(REQUEST.pack(*request) for request in requests)
        self.run(self.steps.client.xadd(self.keys.stream, {b"b": blob, b"a": b"steps"}))

    # -- keeping the gate true, and breaking it

    @precondition(lambda self: self.world.outbox)
    @rule()
    def relay(self) -> None:
        self.world.relay()
        self.run(self.steps.keeper.relay(self.steps.conn, self.steps.shards))

    @rule()
    def reconcile(self) -> None:
        self.world.set_stock(self.sale.types_raw)
        self.run(self.steps.keeper.reconcile(self.steps.conn, self.steps.shards))

    @rule()
    def rebuild(self) -> None:
        self.world.rebuild()
        self.run(self.steps.keeper.rebuild(self.steps.conn, self.sale.shard))

    @rule()
    def empty_valkey(self) -> None:
        self.world.valkey_emptied()
        self.last = None
        self.run(self.steps.client.flushall())
        self.run(self.steps.keeper.rebuild(self.steps.conn, self.sale.shard))

    @rule()
    def forget_the_keys(self) -> None:
        """Ten to twenty minutes pass."""
        self.world.gate.keys = {}
        self.run(forget_keys(self.steps.client))

    @rule(which=st.integers(0, 1), more=st.integers(1, 4))
    def lose_a_second(self, which: int, more: int) -> None:
        """As a Valkey that lost its newest writes: it believes in too much stock."""
        ticket_type = self.sale.types_raw[which]
        self.world.gate.stock[ticket_type] += more
        self.world.gate.allowance.clear()
        self.run(self.steps.client.hincrby(self.keys.stock, ticket_type, more))
        self.run(self.steps.client.delete(self.keys.allowance))

    # -- agreement

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "world"):
            self.run(self._agrees())

    async def _agrees(self) -> None:
        truth, gate, conn = self.world.truth, self.world.gate, self.steps.conn
        rows = await conn.fetch("SELECT id, status::text, quantity FROM reservations.reservations")
        assert {row["id"]: (row["status"], row["quantity"]) for row in rows} == {
            rid: (row.status, row.request.quantity) for rid, row in truth.rows.items()
        }
        types = await conn.fetch("SELECT * FROM reservations.inventory")
        assert {row["ticket_type_id"]: (row["capacity"], row["held"]) for row in types} == {
            key: (kind.capacity, truth.held(key)) for key, kind in truth.types.items()
        }
        stock = await self.steps.client.hgetall(self.keys.stock)
        assert {key: int(value) for key, value in stock.items()} == gate.stock
        allowance = await self.steps.client.hgetall(self.keys.allowance)
        assert {key: int(value) for key, value in allowance.items()} == {
            member + kind: count for (member, kind), count in gate.allowance.items() if count
        }
        pending = await self.steps.client.hget(self.keys.meta, "pending")
        length = await self.steps.client.xlen(self.keys.stream)
        assert length == len(gate.stream)
        assert pending is None or int(pending) <= sum(len(e.requests) for e in gate.stream)

    # -- helpers

    def _held(self) -> list[bytes]:
        rows = self.world.truth.rows
        return [rid for rid, row in rows.items() if row.status == "held"]

    def _unread(self) -> bool:
        return any(not entry.read for entry in self.world.gate.stream)

    def _begun(self) -> bool:
        return any(entry.read for entry in self.world.gate.stream)

    def _admit(self, requests: list[Request]) -> None:
        known_before = dict(self.world.gate.keys)
        expected = self.world.admit(requests)
        reply = self.run(self.steps.admit(self.sale.shard, *requests))
        assert reply[1] == b"".join(expected)
        replays = [r for r, code in zip(requests, expected, strict=True) if code == b"D"]
        for request, value in zip(replays, reply[2:], strict=True):
            key = (request.member, request.digest)
            wanted = known_before.get(key) or self.world.gate.keys[key]
            assert KEPT_PENDING.unpack_from(value) == wanted

    def _match(self, real: list[Any]) -> list[Entry]:
        """The model's entries for these, in the same order."""
        unread: Iterator[Entry] = iter([e for e in self.world.gate.stream if not e.read])
        matched = []
        for entry in real:
            if not entry.again:
                self.entries[entry.id] = next(unread)
                self.entries[entry.id].read = True
            matched.append(self.entries[entry.id])
        return matched

    def _decide(self, real: list[Any], *, settle: bool) -> None:
        entries = self._match(real)
        expected = self.world.truth.decide(r for e in entries for r in e.requests)
        decided = self.run(self.steps.decide(real))
        assert [v.code for d in decided for v in d.verdicts] == expected
        self.last = decided, entries, expected
        if settle:
            self.run(self.steps.settle(decided))
            self.world.settle(entries, expected)


@pytest.mark.slow
@pytest.mark.timeout(600)  # a failure is shrunk for up to five minutes
def test_model_and_system_agree(servers, clean) -> None:
    Reservations.bench = Bench(servers.database_url, servers.valkey_url)
    try:
        run_state_machine_as_test(
            Reservations,
            settings=hypothesis.settings(
                suppress_health_check=list(hypothesis.HealthCheck), deadline=None
            ),
        )
    finally:
        Reservations.bench.close()

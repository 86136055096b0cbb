"""Requests of one API process that are not decided yet: waited for, or told 202 already."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import structlog

from korder.domains.reservation.record import ACCEPTED_BEFORE

log = structlog.get_logger(__name__)

#: How long an undecided request is remembered after its 202, to be submitted again if Valkey
#: loses it. By then the worker has decided it, or PostgreSQL has been down for a minute.
DETACHED_S = 60.0


class Answer(NamedTuple):
    """What the gate or the worker says. Instants in µs since the epoch; zero unless held."""

    code: bytes
    id: bytes
    created_us: int = 0
    expires_us: int = 0
    amount: int = 0
    replayed: bool = False


class Waiter:
    """One request. `deadline` is in seconds of the event loop's clock; `tell` gets its answer."""

    __slots__ = (
        "accepted",
        "attached",
        "deadline",
        "done",
        "generation",
        "id",
        "record",
        "shard",
        "tell",
    )

    def __init__(
        self,
        shard: int,
        rid: bytes,
        record: bytes,
        tell: Callable[[Answer], None],
        deadline: float,
    ) -> None:
        self.shard = shard
        self.id = rid
        self.record = record
        self.tell = tell
        self.done = False
        self.deadline = deadline
        self.generation = b""
        self.accepted = False
        #: False once its client has been told 202.
        self.attached = True

    def answer(self, answer: Answer) -> None:
        """Tell who waits, once. One that cannot be told costs the others of its batch nothing."""
        if self.done:
            return
        self.done = True
        try:
            self.tell(answer)
        except Exception:
            log.exception("gate.answer_not_told")

    def may_be_counted(self) -> None:
        """It may be a reservation already, of which a rebuilt gate knows: it takes nothing twice.

        Wrongly marked, it lets the gate admit one too many, which PostgreSQL refuses.
        """
        self.record = self.record[:-1] + bytes((self.record[-1] | ACCEPTED_BEFORE,))


Pop: TypeAlias = Callable[[bytes, None], Waiter | None]


class Waiters:
    """Both kinds by reservation id, each in the order of its deadlines; `kept_max` bounds 202s."""

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._attached: dict[bytes, Waiter] = {}
        self._detached: dict[bytes, Waiter] = {}

    def __contains__(self, rid: bytes) -> bool:
        return rid in self._attached or rid in self._detached

    def __iter__(self) -> Iterator[Waiter]:
        """A snapshot of all."""
        return iter([*self._attached.values(), *self._detached.values()])

    def __bool__(self) -> bool:
        return bool(self._attached) or bool(self._detached)

    def add(self, waiter: Waiter) -> None:
        """Remember a request until `pop`."""
        (self._attached if waiter.attached else self._detached)[waiter.id] = waiter

    def pop(self, rid: bytes) -> Waiter | None:
        """The request of this id, forgotten; None when nobody waits for it here."""
        return self._attached.pop(rid, None) or self._detached.pop(rid, None)

    def pops(self) -> tuple[Pop, Pop]:
        """`dict.pop` of either kind, for the loop over a block of verdicts."""
        return self._attached.pop, self._detached.pop

    def told_202(self, shard: int) -> list[Waiter]:
        """Those of a shard whose clients ask for them by id."""
        return [waiter for waiter in self._detached.values() if waiter.shard == shard]

    def overdue(self, now: float) -> list[Waiter]:
        """Those whose client has waited for as long as it should, still remembered."""
        found = []
        for waiter in self._attached.values():
            if waiter.deadline > now:
                break
            found.append(waiter)
        return found

    def detach(self, waiter: Waiter) -> None:
        """Its client has been told 202; the verdict is awaited without it."""
        del self._attached[waiter.id]
        waiter.attached = False
        self._detached[waiter.id] = waiter

    def forget_old(self, now: float) -> None:
        """Drop what was told 202 long ago, and the oldest past the bound."""
        spare = len(self._detached) - self._kept_max
        old = []
        for number, waiter in enumerate(self._detached.values()):
            if number >= spare and waiter.deadline + DETACHED_S > now:
                break
            old.append(waiter.id)
        for rid in old:
            del self._detached[rid]

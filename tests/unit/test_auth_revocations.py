"""Revoked sessions are refused until their last token has ended, and then forgotten."""

import time
from uuid import UUID

import pytest

from korder.kernel.ids import new_id
from korder.platform import auth
from korder.platform.auth import Authenticator


class Clock:
    """`time` as the module sees it, moved by hand."""

    def __init__(self) -> None:
        self.now = time.time()
        self.monotonic = time.monotonic

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(auth, "time", clock)
    return clock


def authenticator() -> Authenticator:
    return Authenticator(source=None, issuer="korder", audience="korder-api")


def kept(who: Authenticator) -> set[UUID]:
    """The sessions refused now; what is kept to forget them must not outgrow them."""
    assert len(who._revoked_ends) == len(who._revoked)
    return set(who._revoked)


def test_a_long_revocation_holds_up_no_other(clock) -> None:
    who, minted, short = authenticator(), new_id(), [new_id() for _ in range(100)]
    who.revoke([minted], 86_400)
    who.revoke(short, 900)
    assert kept(who) == {minted, *short}
    clock.now += 901
    who.revoke([], 0)
    assert kept(who) == {minted}
    clock.now += 86_400
    who.revoke([], 0)
    assert kept(who) == set()


def test_the_longest_of_several_revocations_counts(clock) -> None:
    who, first, second = authenticator(), new_id(), new_id()
    who.revoke([first, second], 900)
    who.revoke([first], 10)  # told once more, by pub/sub and by every poll
    for _ in range(50):
        who.revoke([first], 5000)
    clock.now += 901
    who.revoke([], 0)
    assert kept(who) == {first}
    clock.now += 4100
    who.revoke([], 0)
    assert kept(who) == set()


def test_a_session_revoked_after_it_was_forgotten_is_refused_again(clock) -> None:
    who, session = authenticator(), new_id()
    for _ in range(3):
        who.revoke([session], 900)
        assert kept(who) == {session}
        clock.now += 901
        who.revoke([], 0)
        assert kept(who) == set()

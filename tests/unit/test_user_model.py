"""Decisions of the user domain: addresses, roles, refresh tokens."""

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from korder.domains.user.contract import allowed
from korder.domains.user.model import (
    Rotation,
    clean_password,
    clean_roles,
    decide_rotation,
    removes_last_admin,
    valid_email,
)
from korder.kernel.errors import Code, Refusal


@pytest.mark.parametrize(
    ("text", "email"),
    [
        ("mina@example.com", "mina@example.com"),
        ("  Mina@Example.com\t", "Mina@Example.com"),
        ("민아@예시.kr", "민아@예시.kr"),
        (unicodedata.normalize("NFD", "민아@예시.kr"), "민아@예시.kr"),
        ("a@b", "a@b"),
        ("'); DROP TABLE users.members; --@x".replace(" ", ""), "');DROPTABLEusers.members;--@x"),
        ("x" * 248 + "@b.com", "x" * 248 + "@b.com"),
    ],
)
def test_addresses_are_tidied(text: str, email: str) -> None:
    assert valid_email(text) == email


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "mina",
        "mina@",
        "@example.com",
        "a@b@c",
        "a b@c",
        "a@b c",
        "a\0@b",
        "a\x7f@b",
        "a\n@b",
        "x" * 250 + "@b.com",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refusal:
        valid_email(text)
    assert refusal.value.code is Code.INVALID_REQUEST
    assert refusal.value.fields == (("email", "email"),)


@given(st.text())
def test_tidying_twice_changes_nothing(text: str) -> None:
    try:
        once = valid_email(text)
    except Refusal:
        return
    assert valid_email(once) == once


def test_a_password_is_the_same_however_hangul_was_typed() -> None:
    typed = "비밀번호가 아닙니다"
    assert clean_password(unicodedata.normalize("NFD", typed)) == clean_password(typed)


def test_roles_come_once_and_in_order() -> None:
    assert clean_roles(["admin", "member", "admin"]) == ["member", "admin"]


@pytest.mark.parametrize(
    ("before", "after", "others", "refused"),
    [
        (["admin"], ["member"], 0, True),
        (["admin"], ["member"], 1, False),
        (["admin"], ["admin", "member"], 0, False),
        (["member"], ["organizer"], 0, False),
    ],
)
def test_the_last_admin_stays(before, after, others, refused) -> None:
    assert removes_last_admin(before, after, others) is refused


def test_an_admin_may_do_everything_and_nobody_nothing() -> None:
    assert allowed({"admin"}, {"organizer"})
    assert allowed({"member", "organizer"}, {"organizer"})
    assert not allowed({"member"}, {"organizer", "admin"})
    assert not allowed(set(), {"member"})


def test_a_refresh_token_works_only_when_nothing_speaks_against_it() -> None:
    for used, expired, revoked, deleted in itertools.product([False, True], repeat=4):
        decision = decide_rotation(used=used, expired=expired, revoked=revoked, deleted=deleted)
        if decision is Rotation.ROTATE:
            assert not (used or expired or revoked or deleted)
        if used and not (revoked or deleted):
            assert decision is Rotation.REUSED

"""Our one look at a token and PyJWT's answer to the same one agree, whatever is sent."""

import base64
import json
import time
import uuid
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from korder.kernel.errors import Refusal
from korder.platform.auth import ACCESS_HEADER_TYPE, ALGORITHM, LEEWAY_S, Authenticator

KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
KID = "one"


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {
        "iss": "korder", "aud": "korder-api", "sub": str(uuid.uuid4()), "sid": str(uuid.uuid4()),
        "typ": "access", "iat": now, "nbf": now, "exp": now + 900, "jti": "x", "roles": ["member"],
    }  # fmt: skip
    return {name: value for name, value in {**base, **changed}.items() if value is not None}


def token(key: Any = KEY, header: dict[str, Any] | None = None, **changed: Any) -> str:
    head = {"kid": KID, "typ": ACCESS_HEADER_TYPE, **(header or {})}
    return jwt.encode(claims(**changed), key, algorithm=ALGORITHM, headers=head)


def ours(text: str | bytes) -> bool:
    authenticator = Authenticator(None, issuer="korder", audience="korder-api")  # type: ignore[arg-type]
    authenticator.use_keys({KID: KEY.public_key()})
    raw = text if isinstance(text, bytes) else text.encode("latin-1", "replace")
    try:
        authenticator.authenticate(b"Bearer " + raw)
    except Refusal:
        return False
    return True


def theirs(text: str) -> bool:
    try:
        head = jwt.get_unverified_header(text)
        if head.get("typ") != ACCESS_HEADER_TYPE or head.get("kid") != KID:
            return False
        found = jwt.decode(
            text, KEY.public_key(), algorithms=[ALGORITHM], audience="korder-api", issuer="korder",
            leeway=LEEWAY_S, options={"require": ["exp", "iat", "sub", "sid", "iss", "aud"]},
        )  # fmt: skip
        uuid.UUID(found["sub"])
        uuid.UUID(found["sid"])
    except Exception:
        return False
    return found.get("typ") == "access"


def test_a_good_token():
    assert ours(token()) is theirs(token()) is True
    assert ours(token(aud=["else", "korder-api"])) and theirs(token(aud=["else", "korder-api"]))


NOW = int(time.time())


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "else"}, {"iss": None}, {"aud": "else"}, {"aud": None}, {"aud": []}, {"aud": 1},
        {"typ": "refresh"}, {"typ": None}, {"sub": None}, {"sub": "1"}, {"sub": 7}, {"sid": None},
        {"exp": NOW - 60}, {"exp": None}, {"exp": "soon"}, {"iat": None}, {"iat": NOW + 600},
        {"nbf": NOW + 600}, {"nbf": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_other_claims_are_refused(changed: dict[str, Any]):
    text = token(**changed)
    assert not ours(text)
    assert not theirs(text)


def test_other_headers_and_keys_are_refused():
    part = base64.urlsafe_b64encode
    none = part(json.dumps({"alg": "none", "typ": ACCESS_HEADER_TYPE, "kid": KID}).encode())
    body = part(json.dumps(claims()).encode())
    good = token()
    for text in (
        token(OTHER),
        token(header={"typ": "JWT"}),
        token(header={"kid": "two"}),
        token(header={"crit": ["exp"]}),
        token(header={"b64": False}),
        jwt.encode(claims(), "k" * 32, algorithm="HS256",
                   headers={"kid": KID, "typ": ACCESS_HEADER_TYPE}),
        f"{none.decode().rstrip('=')}.{body.decode().rstrip('=')}.",
        good + "=", good + ".", "." + good, good.replace(".", ".."), good[:-4], good + "AAAA",
    ):  # fmt: skip
        assert not ours(text), text


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_changed_character_never_makes_a_token_that_only_we_accept(data: st.DataObject):
    good = token()
    at = data.draw(st.integers(0, len(good) - 1))
    char = data.draw(st.sampled_from("AZaz09-_.=+/ \n"))
    changed = good[:at] + char + good[at + 1 :]
    if ours(changed):
        assert theirs(changed), "accepted by us alone"
        # The last character of a part has spare bits; nothing else may differ.
        assert good.split(".")[:2] == changed.split(".")[:2]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_rubbish_is_refused(text: str | bytes):
    assert not ours(text)

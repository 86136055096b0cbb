"""Every route that takes a body or a query, and what must not be put into it."""

from typing import Any, NamedTuple

from tests.contract.client import event_body, in_s

SQL = (
    "'; DROP TABLE users.members; --",
    "' OR '1'='1",
    '") UNION SELECT private_key FROM users.signing_keys --',
    "\\'; SELECT pg_sleep(5); --",
    "$1",
)
#: JSON values of every wrong kind.
STRANGE = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**63,
    -(2**64),
    10**30,
    "",
    "x",
    [],
    [None],
    {},
    {"a": 1},
)
NUL, SURROGATE = "a\0b", "a\ud800b"
LONG = "x" * 20_000

INTEGERS = (None, True, False, 1.5, 2**63, -(2**63) - 1, 10**30, "1", "", SQL[0], [], [1], {})
TEXTS = (None, True, 0, 1.5, 2**64, [], ["x"], {}, NUL, LONG)
TIMES = (
    True, 0, 4_070_908_800, 1e12, "", "tomorrow", "2099-01-01", "2099-13-01T00:00:00Z", SQL[0], NUL,
    "2099-01-01T00:00:00", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:00", [], {},
)  # fmt: skip
IDS = (None, True, 7, 1.5, "", "x", "0" * 36, "g" * 32, SQL[0], NUL, [], {}, LONG)

#: What is no JSON at all, or JSON of another shape; by name.
BROKEN = {
    "empty": b"",
    "blank": b"  \n",
    "cut off": b'{"quantity": 1',
    "cut off in a text": b'{"email": "a',
    "two": b"{} {}",
    "single quotes": b"{'email': 'a'}",
    "comma at the end": b'{"email": "a",}',
    "comment": b'{} // "x"',
    "no number": b'{"quantity": NaN}',
    "not finite": b'{"quantity": Infinity}',
    "leading zero": b'{"quantity": 01}',
    "invalid UTF-8 in a text": b'{"name": "\xff\xfe", "email": "\xc3("}',
    "invalid UTF-8 in a name": b'{"\xff": 1}',
    "overlong UTF-8": b'{"email": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"email": "\xed\xa0\x80"}',
    "UTF-16": '{"email": "a"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "raw NUL": b'{"email": "a\x00b"}',
    "form": b"email=a&password=b",
    "XML": b"<email>a</email>",
    "a text cut off at a surrogate": b'{"email": "\\ud800',
}
SHAPES = {
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "huge number": b"1e400",
    "text": b'"x"',
    "list": b"[]",
    "list of objects": b'[{"quantity": 1}]',
    "deep list": b"[" * 20_000 + b"]" * 20_000,
    "deep field": b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep object": b'{"x":' * 8000 + b"1" + b"}" * 8000,
    "unknown field": b'{"\\u0000": 1}',
    "prototype": b'{"__proto__": {"roles": ["admin"]}, "constructor": 1}',
}


class Route(NamedTuple):
    """A route with a body that it would take, and values that it must not take by field.

    `by` names who is sent: "organizer", "admin", "member" or "" for nobody. Paths have `{event}`,
    `{kind}` (a ticket type) and `{member}`. `loose` says that a wrong text is a 401 here.
    """

    method: str
    path: str
    by: str
    body: dict[str, Any]
    bad: dict[str, tuple[Any, ...]]
    loose: bool = False

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


_EVENT = event_body(
    description="d",
    sale_opens_at=in_s(100),
    sale_closes_at=in_s(200),
    hold_seconds=300,
    currency="KRW",
)
_EVENT_FIELDS: dict[str, tuple[Any, ...]] = {
    "title": (*TEXTS, "", " "),
    "venue": (*TEXTS, "", " "),
    "description": TEXTS,
    "starts_at": (None, *TIMES),
    "sale_opens_at": TIMES,
    "sale_closes_at": TIMES,
    "currency": (*TEXTS, "", "krw", "XXXX", SQL[0]),
    "hold_seconds": (*INTEGERS, 0, 4, 3601, -300),
}
_NUMBERS: dict[str, tuple[Any, ...]] = {
    "price": (*INTEGERS, -1),
    "capacity": (*INTEGERS, -1),
    "max_per_member": (*INTEGERS[1:], 0, -1),
}
_NO_REASON = (*TEXTS, "")

ROUTES = [
    Route(
        "POST", "/v1/auth/signup", "",
        {"email": "new@example.com", "password": "0123456789", "name": "n"},
        {
            "email": (*TEXTS, "", "x", "@", "a@", "a b@c", *SQL),
            "password": (*TEXTS, "", "short", "x" * 129),
            "name": (*TEXTS, ""),
        },
    ),
    Route(
        "POST", "/v1/auth/login", "", {"email": "a@example.com", "password": "0123456789"},
        {"email": (*TEXTS, *SQL), "password": (*TEXTS, *SQL)}, loose=True,
    ),
    Route(
        "POST", "/v1/auth/refresh", "", {"refresh_token": "x" * 43},
        {"refresh_token": (*TEXTS, *SQL, "")}, loose=True,
    ),
    Route("PATCH", "/v1/users/me", "member", {"name": "n"}, {"name": (*TEXTS, "")}),
    Route(
        "PUT", "/v1/users/{member}/roles", "admin", {"roles": ["member"]},
        {"roles": (*STRANGE, ["king"], ["member", None], [SQL[0]], [NUL], "member", [["member"]])},
    ),
    Route(
        "POST", "/v1/users/{member}/points", "admin", {"delta": 1, "reason": "r"},
        {"delta": (*INTEGERS, 0, 10**13, -(10**13)), "reason": _NO_REASON},
    ),
    Route(
        "POST", "/v1/events", "organizer", _EVENT,
        {**_EVENT_FIELDS, "ticket_types": (*STRANGE, "x", [1], ["x"], [[]])},
    ),
    Route("PATCH", "/v1/events/{event}", "organizer", {"title": "t"}, _EVENT_FIELDS),
    Route(
        "POST", "/v1/events/{event}/cancel", "organizer", {"reason": "r"}, {"reason": _NO_REASON}
    ),
    Route(
        "PATCH", "/v1/events/{event}/ticket-types/{kind}", "organizer", {"price": 1}, _NUMBERS
    ),
    Route(
        "POST", "/v1/reservations", "member",
        {"event_id": "{event}", "ticket_type_id": "{kind}", "quantity": 1},
        {"event_id": IDS, "ticket_type_id": IDS, "quantity": (*INTEGERS, 0, -1, 101, 2**31)},
    ),
]  # fmt: skip

#: Query parameters that must be refused; (path, by, parameter) -> values.
QUERIES: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("/v1/events", "", "limit"): ("0", "-1", "101", "9" * 30, "x", "", "1;DROP", "%00", "null"),
    ("/v1/events", "", "status"): ("", "sold", "DRAFT", "%00", SQL[0]),
    ("/v1/events", "", "q"): ("%00", "x" * 5000),
    ("/v1/events", "", "cursor"): ("", "x", "%00", "AAAA", SQL[0], "x" * 5000, "%ff"),
    ("/v1/events", "member", "organizer"): ("", "you", "%00", SQL[0]),
    ("/v1/reservations", "member", "event_id"): ("", "x", "%00", SQL[0], "0" * 31, "%ff"),
    ("/v1/reservations", "member", "status"): ("", "sold", "%00", SQL[0]),
    ("/v1/reservations", "member", "cursor"): ("", "x", "%00", "AAAA", SQL[0], "%ff"),
    ("/v1/reservations", "member", "limit"): ("0", "101", "x", "%00"),
    ("/v1/events/{event}/reservations", "organizer", "status"): ("", "sold", "%00", SQL[0]),
    ("/v1/events/{event}/reservations", "organizer", "cursor"): ("x", "AAAA", SQL[0]),
    ("/v1/events/{event}/reservations", "organizer", "limit"): ("0", "101", "%00"),
    ("/v1/users", "admin", "email"): ("%00", "x" * 5000),
    ("/v1/users", "admin", "cursor"): ("", "x", "%00", "AAAA", SQL[0]),
    ("/v1/users", "admin", "limit"): ("0", "101", "x"),
    ("/v1/users/me/points", "member", "cursor"): ("", "x", "%00", "AAAA", SQL[0]),
    ("/v1/users/me/points", "member", "limit"): ("0", "101", "x"),
}

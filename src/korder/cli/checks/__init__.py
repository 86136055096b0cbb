"""What `korder doctor` looks at, a module for each kind of thing."""

from typing import Literal

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One look: what was found and, unless it is ok, how to mend it."""

    name: str
    status: Literal["ok", "warning", "problem"]
    found: str
    mend: str = ""


def ok(name: str, found: str) -> Check:
    """As it should be."""
    return Check(name, "ok", found)


def warning(name: str, found: str, mend: str) -> Check:
    """It works, but not as well or as surely as it could."""
    return Check(name, "warning", found, mend)


def problem(name: str, found: str, mend: str) -> Check:
    """It does not work, or not rightly."""
    return Check(name, "problem", found, mend)

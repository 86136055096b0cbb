"""The shape of one audited invariant, shared by every domain's `invariants.py`."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """What was checked and what was found. `ok` is `failed == 0`.

    `invariant` is the number in docs/scarcity.md, `checked` and `failed` count rows, `examples`
    name up to five offenders.
    """

    invariant: int
    name: str
    checked: int
    failed: int
    examples: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when nothing broke the invariant."""
        return self.failed == 0

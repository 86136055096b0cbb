"""Keeps one process's authenticator up to date: published keys, signed-out sessions."""

import contextlib
from datetime import datetime
from uuid import UUID

from korder.domains.user.contract import UserContract
from korder.kernel.clock import utc_now
from korder.platform.auth import LEEWAY_S, Authenticator
from korder.platform.invalidation import ALL


class SessionWatch:
    """Signed-out sessions, told by pub/sub and asked for every second in case it was not."""

    def __init__(self, users: UserContract, authenticator: Authenticator, kept_s: float) -> None:
        self._users = users
        self._authenticator = authenticator
        self._kept_s = kept_s
        self._since: datetime | None = None

    def told(self, key: str) -> None:
        """A session was revoked somewhere; `*` when something may have been missed."""
        if key == ALL:
            self._since = None
            return
        with contextlib.suppress(ValueError):
            self._authenticator.revoke([UUID(key)], self._kept_s)

    async def poll(self) -> None:
        """Ask for those that are new."""
        found = await self._users.revocations(self._since)
        now = utc_now()
        for item in found:  # a minted token may live longer than an ordinary one
            left_s = (item.access_expires_at - now).total_seconds() + LEEWAY_S
            self._authenticator.revoke([item.session_id], max(self._kept_s, left_s))
        if found:
            self._since = found[-1].revoked_at

    async def start(self) -> None:
        """Make ready: no token is accepted before the keys are there, so revocations come first.

        Else a process that has just been started would accept whoever signed out long ago.
        """
        await self.poll()
        await self.refresh_keys()

    async def refresh_keys(self) -> None:
        """Bring the published keys up to date."""
        self._authenticator.use_keys(await self._users.public_keys())

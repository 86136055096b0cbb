"""The member routes as one application on a real PostgreSQL, without the rest of the system."""

from typing import Any
from uuid import UUID

import httpx

from korder.domains.user import invariants
from korder.domains.user.api import controllers
from korder.domains.user.service import UserService
from korder.platform.auth import Authenticator
from korder.platform.http import openapi
from korder.platform.http.edge import Edge, HotRoutes
from korder.platform.http.framework import build_framework
from korder.platform.postgres import Pool
from korder.settings import Settings
from tests.fakes import FakeInvalidation

PASSWORD = "a quiet morning"


class Accounts:
    """One API process with the user domain only. `told` is what it told the other processes."""

    def __init__(self, pool: Pool, **settings: Any) -> None:
        self.pool = pool
        self.settings = Settings(**settings)
        self.invalidation = FakeInvalidation()
        self.service = UserService(pool, self.invalidation, self.settings)
        self.authenticator = Authenticator(
            self.service, issuer=self.settings.issuer, audience=self.settings.audience
        )
        self.invalidation.on("session", lambda key: self.authenticator.revoke([UUID(key)], 3600))
        self.framework = build_framework(
            [controllers(self.service, self.authenticator)],
            self.authenticator,
            openapi.config("test"),
        )
        methods = openapi.Methods(openapi.document(self.framework, {}, {}))
        edge = Edge(
            self.framework, HotRoutes(), methods.allow, body_max=self.settings.body_max_bytes
        )
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(edge), base_url="http://korder.test"
        )

    async def start(self) -> "Accounts":
        await self.service.start()
        return self

    async def close(self) -> None:
        """Stop; the domain's invariants must hold."""
        await self.http.aclose()
        await self.service.stop()
        async with self.pool.acquire() as conn:
            assert [f for f in await invariants.check(conn) if not f.ok] == []

    async def signup(self, email: str = "mina@example.com", **more: Any) -> httpx.Response:
        headers = more.pop("headers", {})
        body = {"email": email, "password": PASSWORD, "name": "민아", **more}
        return await self.http.post("/v1/auth/signup", json=body, headers=headers)

    async def login(
        self, email: str = "mina@example.com", password: str = PASSWORD
    ) -> httpx.Response:
        body = {"email": email, "password": password}
        return await self.http.post("/v1/auth/login", json=body)

    async def refresh(self, token: str) -> httpx.Response:
        return await self.http.post("/v1/auth/refresh", json={"refresh_token": token})

    async def logout(self, refresh_token: str, access_token: str | None = None) -> httpx.Response:
        return await self.http.post(
            "/v1/auth/logout",
            json={"refresh_token": refresh_token},
            headers=bearer(access_token) if access_token else {},
        )

    async def me(self, access_token: str) -> httpx.Response:
        return await self.http.get("/v1/users/me", headers=bearer(access_token))

    async def member(self, email: str = "mina@example.com", *roles: str) -> dict[str, Any]:
        """A new member, signed in: `member`, `access_token`, `refresh_token`, `headers`."""
        created = await self.signup(email)
        assert created.status_code == 201, created.text
        member = created.json()
        if roles:
            await self.pool.execute(
                "UPDATE users.members SET roles = $2 WHERE id = $1",
                UUID(member["id"]),
                list(roles),
            )
        tokens = (await self.login(email)).json()
        return {"member": member, "headers": bearer(tokens["access_token"]), **tokens}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(response: httpx.Response, status: int, code: str) -> None:
    """The response is this refusal, as problem details."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code, response.text

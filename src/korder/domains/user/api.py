"""The member routes: signing up and in, one's own account, and what admins do to others'."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Request, Response, Router, delete, get, patch, post, put
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import UNSET

from korder.domains.user.contract import require_role
from korder.domains.user.model import EMAIL_MAX
from korder.domains.user.service import UserService
from korder.domains.user.sessions import Tokens
from korder.domains.user.store import LedgerEntry, Member
from korder.domains.user.views import (
    Jwks,
    LoginBody,
    MemberChanges,
    PointsBody,
    PointsPage,
    RefreshBody,
    RolesBody,
    SignupBody,
)
from korder.kernel.errors import Code, Refusal
from korder.platform.auth import Authenticator, Principal
from korder.platform.http.common import (
    LIMIT_DEFAULT,
    Cursor,
    Limit,
    Page,
    answered,
    bad_cursor,
    decode_cursor,
    encode_cursor,
    no_nul,
    problems,
)
from korder.platform.idempotency import IdempotencyKey

SIGN_IN, ACCOUNT, ADMIN = ["Sign-in"], ["Members"], ["Members (admin)"]
NO_STORE = [ResponseHeader(name="Cache-Control", value="no-store")]
#: Shorter than a new key is published before it signs (`keys.PUBLISH_LEAD_S`).
JWKS_CACHE = [ResponseHeader(name="Cache-Control", value="public, max-age=5")]
BEARER: list[dict[str, list[str]]] = [{"bearer": []}]

Asker = NamedDependency[Principal]
Key = NamedDependency[IdempotencyKey | None]
EmailFilter = Annotated[
    str | None,
    QueryParameter(
        required=False, max_length=EMAIL_MAX, description="Only who has this address, in any case."
    ),
]


def controllers(service: UserService, authenticator: Authenticator) -> Router:
    """All routes of the domain, bound to a service."""
    parts = [
        Router(path="/", route_handlers=_sign_in(service, authenticator), tags=SIGN_IN),
        Router(path="/", route_handlers=_account(service), tags=ACCOUNT, security=BEARER),
        Router(path="/", route_handlers=_admin(service), tags=ADMIN, security=BEARER),
    ]
    return Router(path="/", route_handlers=parts)


def _sign_in(service: UserService, authenticator: Authenticator) -> list[Any]:
    @post(
        "/v1/auth/signup",
        summary="Become a member",
        responses=problems(
            Code.INVALID_REQUEST, Code.EMAIL_TAKEN, Code.IDEMPOTENCY_CONFLICT, Code.OVERLOADED
        ),
        response_headers=NO_STORE,
    )
    async def signup(data: JSONBody[SignupBody], idempotency_key: Key) -> Response[Member]:
        no_nul(email=data.email, password=data.password, name=data.name)
        return answered(
            await service.members.signup(data.email, data.password, data.name, idempotency_key)
        )

    @post(
        "/v1/auth/login",
        status_code=200,
        summary="Sign in",
        description="A wrong password and an unknown address get the same answer in the same time.",
        responses=problems(Code.INVALID_REQUEST, Code.UNAUTHENTICATED, Code.OVERLOADED),
        response_headers=NO_STORE,
    )
    async def login(data: JSONBody[LoginBody]) -> Tokens:
        no_nul(email=data.email, password=data.password)
        return await service.sessions.login(data.email, data.password)

    @post(
        "/v1/auth/refresh",
        status_code=200,
        summary="Spend a refresh token for new tokens",
        description="Each works once. Using a spent one ends the whole family of tokens.",
        responses=problems(Code.INVALID_REQUEST, Code.UNAUTHENTICATED, Code.OVERLOADED),
        response_headers=NO_STORE,
    )
    async def refresh(data: JSONBody[RefreshBody]) -> Tokens:
        return await service.sessions.refresh(data.refresh_token)

    @post(
        "/v1/auth/logout",
        status_code=204,
        summary="Sign out",
        description="Ends the refresh token's family, and the session of the access token in the "
        "Authorization header if there is one, everywhere within 5 s. Repeating it is harmless.",
        responses=problems(Code.INVALID_REQUEST, Code.OVERLOADED),
        security=[{}, *BEARER],
    )
    async def logout(data: JSONBody[RefreshBody], request: Request[Any, Any, Any]) -> None:
        header = request.headers.get("authorization")
        principal = await _principal_if_any(authenticator, header)
        await service.sessions.logout(data.refresh_token, principal)

    @get(
        "/.well-known/jwks.json",
        summary="The public keys of the access tokens",
        responses=problems(Code.OVERLOADED),
        response_headers=JWKS_CACHE,
    )
    async def jwks() -> Jwks:
        return Jwks(await service.keys.jwks())

    return [signup, login, refresh, logout, jwks]


def _account(service: UserService) -> list[Any]:
    @get(
        "/v1/users/me",
        summary="Me",
        responses=problems(Code.UNAUTHENTICATED),
        response_headers=NO_STORE,
    )
    async def get_me(principal: Asker) -> Member:
        return await service.members.get(principal.member_id)

    @patch(
        "/v1/users/me",
        summary="Change my name",
        responses=problems(Code.UNAUTHENTICATED, Code.INVALID_REQUEST),
        response_headers=NO_STORE,
    )
    async def change_me(principal: Asker, data: JSONBody[MemberChanges]) -> Member:
        if data.name is UNSET:
            return await service.members.get(principal.member_id)
        no_nul(name=data.name)
        return await service.members.rename(principal.member_id, str(data.name))

    @delete(
        "/v1/users/me",
        summary="Delete my account",
        description="Name, address and password are erased and every session ends. It is final.",
        responses=problems(Code.UNAUTHENTICATED),
    )
    async def delete_me(principal: Asker) -> None:
        await service.members.delete(principal.member_id)

    @get(
        "/v1/users/me/points",
        summary="My points, newest movement first",
        responses=problems(Code.UNAUTHENTICATED, Code.INVALID_REQUEST),
        response_headers=NO_STORE,
    )
    async def my_points(
        principal: Asker, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> PointsPage:
        raw = _cursor(cursor, 8)
        before = None if raw is None else int.from_bytes(raw, "big", signed=True)
        page = await service.points.page(principal.member_id, before, limit)
        last = page.next_before
        following = None if last is None else encode_cursor(last.to_bytes(8, "big", signed=True))
        return PointsPage(page.balance, page.entries, following)

    return [get_me, change_me, delete_me, my_points]


def _admin(service: UserService) -> list[Any]:
    @get(
        "/v1/users",
        summary="Members, newest first",
        responses=problems(Code.UNAUTHENTICATED, Code.FORBIDDEN, Code.INVALID_REQUEST),
        response_headers=NO_STORE,
    )
    async def list_members(
        principal: Asker,
        email: EmailFilter = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[Member]:
        await require_role(service, principal, "admin")
        no_nul(email=email)
        raw = _cursor(cursor, 16)
        before = None if raw is None else UUID(bytes=raw)
        found = await service.members.page(email, before, limit + 1)
        items = found[:limit]
        more = len(found) > limit
        return Page(items, encode_cursor(items[-1].id.bytes) if more else None)

    @put(
        "/v1/users/{member_id:uuid}/roles",
        summary="Set a member's roles",
        description="Works at once, on tokens already out too. The last admin stays one.",
        responses=problems(
            Code.UNAUTHENTICATED,
            Code.FORBIDDEN,
            Code.NOT_FOUND,
            Code.INVALID_STATE,
            Code.INVALID_REQUEST,
        ),
    )
    async def set_roles(
        principal: Asker, member_id: FromPath[UUID], data: JSONBody[RolesBody]
    ) -> Member:
        await require_role(service, principal, "admin")
        return await service.members.set_roles(member_id, list(data.roles))

    @post(
        "/v1/users/{member_id:uuid}/points",
        summary="Give or take points",
        responses=problems(
            Code.UNAUTHENTICATED,
            Code.FORBIDDEN,
            Code.NOT_FOUND,
            Code.INSUFFICIENT_POINTS,
            Code.INVALID_REQUEST,
            Code.IDEMPOTENCY_CONFLICT,
        ),
    )
    async def grant_points(
        principal: Asker,
        member_id: FromPath[UUID],
        data: JSONBody[PointsBody],
        idempotency_key: Key,
    ) -> Response[LedgerEntry]:
        await require_role(service, principal, "admin")
        no_nul(reason=data.reason)
        if data.delta == 0:
            raise Refusal(Code.INVALID_REQUEST, fields=(("delta", "range"),))
        return answered(
            await service.points.grant(
                principal.member_id, member_id, data.delta, data.reason, idempotency_key
            )
        )

    return [list_members, set_roles, grant_points]


async def _principal_if_any(authenticator: Authenticator, header: str | None) -> Principal | None:
    """Who signs out; an access token that has ended already needs no ending."""
    if header is None:
        return None
    try:
        return await authenticator.authenticate_fresh(header.encode("latin-1"))
    except Refusal as refusal:
        if refusal.code is not Code.UNAUTHENTICATED:
            raise
        return None


def _cursor(text: str | None, length: int) -> bytes | None:
    raw = decode_cursor(text)
    if raw is not None and len(raw) != length:
        raise bad_cursor()
    return raw

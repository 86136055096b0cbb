"""`korder admin create`: make the first administrator, or another one."""

import asyncio
import json
import os
import sys
from typing import Annotated

import asyncpg
import typer

from korder.cli.app import TARGET_SETTINGS, fail, said, with_settings
from korder.cli.runfolder import InUseError
from korder.cli.system import StartError
from korder.cli.target import target
from korder.domains.user.admins import MadeAdmin, make_admin
from korder.domains.user.members import MEMBER_TOPIC
from korder.domains.user.passwords import Passwords
from korder.domains.user.sessions import SESSION_TOPIC
from korder.kernel.errors import Refusal
from korder.kernel.messages import text
from korder.platform import logs, valkey
from korder.platform.invalidation import Invalidation
from korder.platform.postgres import open_pool, transaction
from korder.settings import Settings

PASSWORD_ENV = "KORDER_ADMIN_PASSWORD"  # noqa: S105 - the variable's name

app = typer.Typer(help="Administrators.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Administrators."""


@app.command()
@with_settings(TARGET_SETTINGS)
def create(
    settings: Settings,
    email: Annotated[str, typer.Option(help="Address of the administrator.")],
    password: Annotated[
        str | None,
        typer.Option(help=f"10 to 128 characters; better in {PASSWORD_ENV}, or asked for."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of a new member; default: the address before the @.")
    ] = None,
    set_password: Annotated[
        bool,
        typer.Option("--set-password", help="Give an existing member this password too."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Create an administrator, or promote the member who has the address.

    An existing member keeps its password unless --set-password says otherwise; a new password
    signs that member out everywhere.
    """
    logs.configure(settings.log_format, settings.log_level, "admin")
    try:
        made = asyncio.run(_run(settings, email, name, password, set_password=set_password))
    except Refusal as refusal:
        problems = [f"{field}: {text(f'field.{key}', 'en')}" for field, key in refusal.fields]
        fail("; ".join(problems) or text(refusal.code.value, "en"))
    except (StartError, InUseError) as error:
        fail(str(error))
    except (OSError, asyncpg.PostgresError) as error:
        fail(f"PostgreSQL: {said(error)}")
    _report(made, given=bool(password), as_json=as_json)


async def _run(
    settings: Settings, email: str, name: str | None, password: str | None, *, set_password: bool
) -> MadeAdmin:
    async def ask() -> str:
        given = password or os.environ.get(PASSWORD_ENV)
        return given if given else await asyncio.to_thread(_prompt)

    passwords = Passwords(1, 0)
    async with target(settings) as system:
        pool = await open_pool(system.database_url, max_size=1, name="cli")
        client = valkey.connect(system.valkey_url)
        try:
            async with transaction(pool) as conn:
                made = await make_admin(
                    conn, email, name, passwords, ask, set_password=set_password
                )
            invalidation = Invalidation(client)
            await invalidation.publish(MEMBER_TOPIC, str(made.id))
            for session_id in made.ended:
                await invalidation.publish(SESSION_TOPIC, str(session_id))
        finally:
            await client.aclose()
            await pool.close()
            passwords.close()
    return made


def _prompt() -> str:
    if not sys.stdin.isatty():
        fail(f"a password is needed: give --password or {PASSWORD_ENV}", status=2)
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return asked


def _report(made: MadeAdmin, *, given: bool, as_json: bool) -> None:
    if as_json:
        told = {"id": str(made.id), "email": made.email, "did": made.did}
        print(json.dumps({**told, "password_set": made.password_set}))
        return
    saying = {
        "created": "created, with the roles member and admin",
        "promoted": "was a member already and is an admin now",
        "unchanged": "is an admin already",
    }
    print(f"{made.email} ({made.id}) {saying[made.did]}.")
    if made.did != "created" and made.password_set:
        print(f"Its password is set; {len(made.ended)} session(s) ended.")
    elif given and not made.password_set:
        print("Its password is as it was; --set-password changes it.")

"""The `korder` command: a table of commands, each imported only when it is used.

To add one: write `korder/cli/<name>.py` with `app = typer.Typer(...)` and one `@app.command()`
(or several, and an empty `@app.callback()`, for a group such as `korder keys rotate`), then add a
row to `COMMANDS`. `@with_settings` gives a command its `settings: Settings` and makes one flag of
each setting it is to have, out of the table in `korder.settings`.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from korder.settings import Settings

#: name -> (module with `app`, hidden)
COMMANDS: dict[str, tuple[str, bool]] = {
    "up": ("korder.cli.up", False),
    "rush": ("korder.cli.rush", False),
    "audit": ("korder.cli.audit", False),
    "doctor": ("korder.cli.doctor", False),
    "migrate": ("korder.cli.migrate", False),
    "admin": ("korder.cli.admin", False),
    "keys": ("korder.cli.keys", False),
    "members": ("korder.cli.members", False),
    "serve-api": ("korder.cli.serve_api", True),
    "serve-worker": ("korder.cli.serve_worker", True),
}

#: Settings of every command that talks to a running system.
TARGET_SETTINGS = ("data_dir", "database_url", "valkey_url", "log_format", "log_level")


class _Commands(typer.core.TyperGroup):
    """Imports a command's module when it is called, so that a worker never pays for a report."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, hidden = COMMANDS[cmd_name]
        command = typer.main.get_command(importlib.import_module(module).app)
        command.name, command.hidden = cmd_name, hidden
        return command


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals hold tokens and passwords
    help="Korder: ticket reservations for the second when everybody wants the same seats.",
)


@app.callback()
def _root() -> None:
    """Only here so that typer makes a group."""


def main() -> None:
    """Entry point of the `korder` script."""
    app(prog_name="korder")


def with_settings(only: tuple[str, ...] | None = None) -> Callable[[Any], Any]:
    """Decorate a command that takes `settings: Settings` first.

    The command gets one flag for each setting (or those named in `only`), and the settings made of
    flags, environment and defaults. A value that does not parse ends it with status 2.
    """
    chosen = [f for f in fields(Settings) if only is None or f.name in only]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "settings"
        ]
        flags = [_flag(item) for item in chosen]

        @functools.wraps(command)
        def run(**given: Any) -> Any:
            picked = {item.name: given.pop(item.name) for item in chosen}
            try:
                settings = Settings.load(**picked)
            except ValueError as error:
                fail(str(error), status=2)
            return command(settings=settings, **given)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *flags)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def fail(message: str, *, status: int = 1) -> Any:
    """Say one clear line on standard error and end with `status`."""
    print(f"korder: {message}", file=sys.stderr)
    raise typer.Exit(status)


def said(error: Exception) -> str:
    """What an error says in one line, without PostgreSQL's DETAIL, which quotes rows: secrets."""
    return getattr(error, "message", None) or str(error) or type(error).__name__


def setting_help(item: "Field[Any]") -> str:
    """The sentence, unit and environment variable of one setting."""
    # In words, since rich would take "[ms]" for a style and leave it out.
    unit = f"in {item.metadata['unit']}; " if item.metadata["unit"] else ""
    return f"{item.metadata['doc']} ({unit}env {item.metadata['env']})"


def _flag(item: "Field[Any]") -> inspect.Parameter:
    default = str(item.default) if item.default != "" else "none"
    option = typer.Option(
        f"--{item.name.replace('_', '-')}", help=setting_help(item), show_default=default
    )
    kind: Any = {int: int, Path: Path}.get(type(item.default), str)
    if isinstance(item.default, Path):
        kind = Path
    return inspect.Parameter(
        item.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )

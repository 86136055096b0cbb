"""Logs: structlog to standard error, one line per event, readable or JSON.

Whatever libraries say through `logging` takes the same way, so that one process speaks with one
voice. No event may carry a password, a token or a request body.
"""

import logging
import sys
from typing import Any

import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
FORMATS = ("console", "json")


def configure(log_format: str, level: str, process: str) -> None:
    """Set up this process's logging; `process` names it on every line.

    Raises ValueError for a format or level that is not listed above.
    """
    if log_format not in FORMATS or level not in LEVELS:
        raise ValueError(
            f"log format {log_format!r} and level {level!r}: expected one of "
            f"{', '.join(FORMATS)} and one of {', '.join(LEVELS)}"
        )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])


def get(**bound: Any) -> Any:
    """A logger; `bound` is said with every event."""
    return structlog.get_logger(**bound)


def _named(process: str) -> Any:
    def add(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event.setdefault("process", process)
        return event

    return add


def _renderers(log_format: str) -> list[Any]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback  # rich tracebacks would print local values: secrets
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]

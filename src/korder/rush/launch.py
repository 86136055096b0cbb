"""Start the load generator and listen to it."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable

import msgspec

from korder.platform.processes import die_with_parent
from korder.rush.plan import Message, Outcome, Plan, Progress

#: The outcome is one line: about 150 bytes per buyer.
LINE_MAX_BYTES = 512 * 1024 * 1024


class RushError(Exception):
    """The rush could not be run; the message says why."""


async def launch(plan: Plan, on_progress: Callable[[Progress], None]) -> Outcome:
    """Run one rush in its own process. Raises RushError with that process' last words."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "korder.rush",
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=LINE_MAX_BYTES,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    try:
        outcome, said = await asyncio.gather(_talk(process, plan, on_progress), _words(process))
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if outcome is None:
        raise RushError(said or f"the load generator ended with status {process.returncode}")
    return outcome


async def _talk(
    process: Process, plan: Plan, on_progress: Callable[[Progress], None]
) -> Outcome | None:
    if process.stdin is None or process.stdout is None:
        raise RushError("the load generator has no pipes")
    process.stdin.write(msgspec.json.encode(plan))
    await process.stdin.drain()
    process.stdin.close()
    async for line in process.stdout:
        message = msgspec.json.decode(line, type=Message)
        if isinstance(message, Outcome):
            return message
        on_progress(message)
    return None


async def _words(process: Process) -> str:
    if process.stderr is None:
        return ""
    text = (await process.stderr.read()).decode(errors="replace").strip()
    return text.splitlines()[-1] if text else ""

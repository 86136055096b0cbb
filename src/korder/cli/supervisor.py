"""One supervised child: started, watched, started again with back-off, stopped in order."""

import asyncio
import contextlib
import os
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable

from korder.platform import logs
from korder.platform.processes import Command, die_with_parent

#: Waits before the next start, in seconds: the first is at once, since most deaths are single.
BACK_OFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
#: A child that lived this long was well; its next death counts as the first again.
HEALTHY_S = 10.0
_LINE_MAX_BYTES = 65_536
#: What PostgreSQL answers to our own look whether it is there yet.
_EXPECTED = ("the database system is starting up", "the database system is shutting down")


class Child:
    """One process that is to live until `stop`.

    `prepare` (blocking, in a thread) runs before every start, `wait_ready` after it; `ready` is
    set when the first start has come that far. `on_change` is told of every new or lost process.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Command],
        *,
        prepare: Callable[[], None] | None = None,
        wait_ready: Callable[[], Awaitable[None]] | None = None,
        on_change: Callable[[], None] = lambda: None,
        on_exit: Callable[[int], None] = lambda _pid: None,
    ) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._command = command
        self._prepare = prepare
        self._wait_ready = wait_ready
        self._on_change = on_change
        self._on_exit = on_exit
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = logs.get(child=name)

    @property
    def pid(self) -> int | None:
        """The process id, None while it is down."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start it for the first time; what goes wrong is raised, not retried."""
        process = await self._spawn()
        self._runner = asyncio.create_task(self._keep_running(process))

    async def stop(self) -> None:
        """Ask it to end, SIGKILL after its patience; returns when it is gone. Idempotent."""
        self._stopping.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            process = self._process
            if process is not None:
                await self._end(process)
            await runner
        for task in self._tasks:
            task.cancel()

    async def _keep_running(self, process: Process | None) -> None:
        deaths = 0
        while True:
            if process is not None:
                born = time.monotonic()
                code = await process.wait()
                self._gone(process)
                if self._stopping.is_set():
                    return
                deaths = 0 if time.monotonic() - born > HEALTHY_S else deaths
                self._log.warning("child_died", pid=process.pid, exit=code, deaths=deaths + 1)
            delay = BACK_OFF_S[min(deaths, len(BACK_OFF_S) - 1)]
            deaths += 1
            if await self._stopped_within(delay):
                return
            process = await self._try_spawn()

    async def _try_spawn(self) -> Process | None:
        try:
            process = await self._spawn()
        except (OSError, RuntimeError) as error:
            self._log.error("child_not_started", error=str(error))
            return None
        self._log.info("child_restarted", pid=process.pid)
        return process

    async def _spawn(self) -> Process:
        """Start one process; `stop` may have been called meanwhile, then it is ended at once."""
        if self._prepare is not None:
            await asyncio.to_thread(self._prepare)
        command = self._command()
        # Captured through a pipe of our own: asyncio's would keep `wait` until the server's own
        # children have closed it too, and those are what a killed postmaster leaves behind.
        read_end, write_end = os.pipe() if command.capture else (-1, -1)
        output = write_end if command.capture else None
        try:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                env={**os.environ, **command.env},
                cwd=command.cwd,
                user=command.user,
                group=command.user,
                extra_groups=None if command.user is None else [],
                pass_fds=command.pass_fds,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches only us, and we stop them in order
                preexec_fn=die_with_parent(command.death_signal),
            )
        finally:
            if command.capture:
                os.close(write_end)
        self._process = process
        if command.capture:
            self._in_background(self._relay(read_end))
        self._in_background(self._become_ready())
        self._on_change()
        if self._stopping.is_set():
            await self._end(process)
        return process

    async def _become_ready(self) -> None:
        if self._wait_ready is not None:
            await self._wait_ready()
        self.ready.set()

    async def _end(self, process: Process) -> None:
        command = self._command()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(command.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), command.stop_timeout_s)
        except TimeoutError:
            self._log.warning("child_killed", pid=process.pid, after_s=command.stop_timeout_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _gone(self, process: Process) -> None:
        self._process = None
        self._on_exit(process.pid)
        self._on_change()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _relay(self, read_end: int) -> None:
        """Say a server's lines in our own voice."""
        reader = asyncio.StreamReader(limit=_LINE_MAX_BYTES)
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            while True:
                try:
                    line = await reader.readline()
                except ValueError:
                    continue  # one endless line is dropped, the next ones are not
                if not line:
                    return
                self._say(line.decode(errors="replace").strip())

    def _say(self, line: str) -> None:
        if not line:
            return
        if line.endswith(_EXPECTED):
            self._log.debug("server_log", line=line)
        elif line.startswith(("FATAL:", "PANIC:")):
            self._log.warning("server_log", line=line)
        elif line.startswith(("WARNING:", "ERROR:")):
            self._log.info("server_log", line=line)
        else:
            self._log.debug("server_log", line=line)

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

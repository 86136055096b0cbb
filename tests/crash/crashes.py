"""What dies: each kills real processes with SIGKILL and returns when their successors run."""

import contextlib
import shutil

import psutil

from korder.platform.valkey import UNAVAILABLE, connect
from tests.crash.running import Up, alive, eventually

#: API processes that outlive a killed supervisor finish their requests, for 8 s at most.
ORPHANS_S = 15.0

MARKER = b"korder-test:marker"


async def worker(system: Up) -> None:
    await kill_child(system, "worker-1")


async def api_process(system: Up) -> None:
    """The one with more connections: the kernel hands them out as it likes."""
    connections = {
        name: len(system.child(name).net_connections("tcp")) for name in ("api-1", "api-2")
    }
    await kill_child(system, max(connections, key=lambda name: connections[name]))


async def valkey_with_its_data(system: Up) -> None:
    client = connect(system.valkey_url)
    await client.set(MARKER, b"1")
    await client.aclose()
    await kill_child(system, "valkey")
    assert await marker(system), "the data was to be kept"


async def valkey_without_its_data(system: Up) -> None:
    client = connect(system.valkey_url)
    await client.set(MARKER, b"1")
    await client.aclose()
    # It goes on writing to files that nobody will find again.
    shutil.rmtree(system.data_dir / "valkey" / "appendonlydir")
    await kill_child(system, "valkey")
    assert not await marker(system), "the data was to be lost"


async def postgres_and_its_backends(system: Up) -> None:
    postmaster = system.child("postgres")
    backends = postmaster.children(recursive=True)
    await kill_child(system, "postgres", *backends)


async def postmaster_alone(system: Up) -> None:
    await kill_child(system, "postgres")


async def supervisor(system: Up) -> None:
    """All its children die of it; a new one is started at once, as an init system would."""
    family = system.family()
    psutil.Process(system.pid).kill()
    await system.ended()
    await system.start()
    await eventually(lambda: not alive(family), "nothing outlives its supervisor", ORPHANS_S)


async def kill_child(system: Up, name: str, *others: psutil.Process) -> None:
    """kill -9; returns when the supervisor has started its successor."""
    child = system.child(name)
    for process in (child, *others):
        with contextlib.suppress(psutil.NoSuchProcess):  # a backend may have ended by itself
            process.kill()
    await system.respawned(name, child.pid)


async def marker(system: Up) -> bool:
    client = connect(system.valkey_url)
    try:

        async def there() -> list[bool]:
            try:
                return [await client.get(MARKER) is not None]
            except UNAVAILABLE:
                return []

        found = await eventually(there, "Valkey answers")
        await client.delete(MARKER)
        return bool(found[0])
    finally:
        await client.aclose()


CRASHES = [
    worker,
    api_process,
    valkey_with_its_data,
    valkey_without_its_data,
    postgres_and_its_backends,
    postmaster_alone,
    supervisor,
]

"""`korder up` from start to stop: one per folder, nothing left behind, data kept."""

import json
import os
import pwd
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio

from korder.cli import runfolder
from korder.cli.rush_cast import cast
from korder.platform.processes import SERVER_USER
from korder.rush.stage import Api, make_event
from korder.settings import Settings
from tests.crash.running import Up, alive, eventually, korder, up

CHILDREN = {"postgres", "valkey", "worker-1", "api-1"}


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[Up]:
    """One that the tests leave running."""
    async with up("--api-processes", "1") as system:
        yield system


async def is_ready(base_url: str) -> bool:
    async with httpx.AsyncClient(base_url=base_url, timeout=5) as http:
        try:
            return (await http.get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False


async def test_a_second_one_on_the_same_folder_says_so_and_does_no_harm(running: Up):
    before = running.running()
    status, out, err = await korder("up", "--port", "0", "--data-dir", str(running.data_dir))
    assert status == 1
    assert "is in use" in err, out + err
    assert str(running.pid) in err
    assert running.base_url in err
    assert "--data-dir" in err
    assert running.running() == before
    assert set(before.children) == CHILDREN
    assert await is_ready(running.base_url)


async def test_commands_find_the_running_system_and_start_nothing(running: Up, tmp_path: Path):
    before = running.family()
    tokens = tmp_path / "tokens.txt"
    status, out, err = await korder(
        *("members", "mint", "--count", "3", "--out", str(tokens)),
        *("--json", "--data-dir", str(running.data_dir)),
    )
    assert status == 0, err
    assert json.loads(out)["count"] == 3
    assert running.family() == before
    async with httpx.AsyncClient(base_url=running.base_url) as http:
        for token in tokens.read_text().split():
            me = await http.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"})
            assert me.status_code == 200, me.text


async def test_a_port_in_use_is_told_with_a_way_out(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        folder = str(tmp_path / "data")
        status, out, err = await korder("up", "--port", str(port), "--data-dir", folder)
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}" in err, out + err
    assert "--port" in err
    assert runfolder.read(tmp_path / "data") is None


async def test_the_run_file_is_for_its_owner_only(running: Up):
    assert (running.data_dir / "run.json").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give the servers another user")
async def test_as_root_the_servers_run_as_somebody_else(running: Up):
    uid = pwd.getpwnam(SERVER_USER).pw_uid
    assert uid != 0
    for name in ("postgres", "valkey"):
        assert set(running.child(name).uids()) == {uid}, name
    for folder in ("postgres", "valkey", "run"):
        status = (running.data_dir / folder).stat()
        assert status.st_uid == uid
        assert status.st_mode & 0o077 == 0, folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
async def test_it_stops_cleanly_and_a_restart_has_everything(number: signal.Signals):
    async with up("--api-processes", "1") as system:
        organizer, [(_, token)] = await cast(system.database_url, Settings(), 1)
        api = Api(system.base_url, organizer)
        stage = await make_event(api, tickets=3, max_per_member=None, title="Kept")
        made = await Api(system.base_url, token).call("POST", "/v1/reservations", wanted(stage))
        family = system.family()
        assert await system.stop(number) == 0
        assert alive(family) == []
        assert system.running() is None
        assert not (system.data_dir / "run.json").exists()
        assert not await is_ready(system.base_url)

        await system.start()
        member = Api(system.base_url, token)
        event = await member.call("GET", f"/v1/events/{stage.event_id}")
        assert event["title"] == "Kept"
        kept = await member.call("GET", f"/v1/reservations/{made['id']}")
        assert {**made, **kept} == kept
        assert (await member.call("POST", "/v1/reservations", wanted(stage)))["status"] == "held"


def wanted(stage) -> dict[str, str | int]:
    event_id, ticket_type_id = str(stage.event_id), str(stage.ticket_type_id)
    return {"event_id": event_id, "ticket_type_id": ticket_type_id, "quantity": 1}


async def test_a_stop_before_it_is_ready_leaves_nothing(tmp_path: Path):
    system = Up(tmp_path / "data")
    try:
        await system.spawn()
        await eventually(lambda: len(system.family()) > 1, "something has been started", 30)
        assert await system.stop() == 0
        assert alive(system.ever) == []
    finally:
        await system.close()


@pytest.mark.parametrize("name", sorted(CHILDREN))
async def test_a_killed_child_is_started_again(running: Up, name: str):
    before = running.running()
    running.child(name).kill()
    pid = await running.respawned(name, before.children[name])
    assert psutil.pid_exists(pid)
    assert set(running.running().children) == CHILDREN
    await eventually(lambda: is_ready(running.base_url), "it is ready again")


async def test_with_servers_of_others_it_starts_none(running: Up):
    urls = {"DATABASE_URL": running.database_url, "VALKEY_URL": running.valkey_url}
    async with up("--api-processes", "1", **urls) as second:
        assert set(second.running().children) == {"worker-1", "api-1"}
        assert not (second.data_dir / "postgres").exists()
        assert not (second.data_dir / "valkey").exists()
        organizer, members = await cast(running.database_url, Settings(), 1)
        api = Api(second.base_url, organizer)
        stage = await make_event(api, tickets=50, max_per_member=None, title="Shared")
        # Both sell the same tickets, and the workers share the shards without quarrel.
        for base_url in (running.base_url, second.base_url) * 5:
            member = Api(base_url, members[0][1])
            made = await member.call("POST", "/v1/reservations", wanted(stage))
            assert made["status"] == "held"
            member.close()
        assert "lease_lost" not in second.log.read_text()
        assert "lease_lost" not in running.log.read_text()
    await eventually(lambda: is_ready(running.base_url), "the first goes on")


async def test_orphans_on_the_port_are_waited_for(tmp_path: Path):
    """An API process that is slow to let go of the port must not keep a new start from it."""
    async with up("--api-processes", "1", folder=tmp_path) as system:
        orphan = system.child("api-1")
        orphan.suspend()
        psutil.Process(system.pid).kill()
        await system.ended()
        await system.spawn()
        run_file = system.data_dir / "run.json"
        await eventually(lambda: not run_file.exists(), "it has the folder and wants the port")
        orphan.resume()
        await system.started()
        assert await is_ready(system.base_url)

"""`korder doctor`: sound defaults are called sound, and each thing that is off is found."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from korder.cli.checks import machine, sense, servers
from korder.cli.doctor import app, examine
from korder.cli.runfolder import Running
from korder.settings import Settings


def test_the_defaults_make_sense():
    (check,) = sense.look(Settings())
    assert check.status == "ok"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"lease_ms": 100}, "problem"),
        ({"lease_ms": 60_000}, "warning"),
        ({"relay_interval_ms": 2000}, "problem"),
        ({"sweep_interval_ms": 60_000}, "warning"),
        ({"reconcile_interval_ms": 60_000}, "warning"),
        ({"batch_max": 30_000, "worker_batch_max": 30_000}, "problem"),
        ({"worker_batch_max": 100}, "warning"),
        ({"wait_budget_ms": 10}, "warning"),
        ({"wait_budget_ms": 60_000}, "warning"),
        ({"refresh_token_s": 900}, "problem"),
        ({"access_token_s": 100_000}, "warning"),
        ({"log_format": "xml"}, "problem"),
        ({"issuer": ""}, "problem"),
        ({"queue_max": 0, "batch_max": -1}, "problem"),
        ({"port": 70_000}, "problem"),
        ({"api_processes": 10_000}, "warning"),
        ({"body_max_bytes": 1}, "warning"),
        ({"database_url": "postgresql:///x"}, "warning"),
    ],
)
def test_what_makes_no_sense_together_is_said(changes, status):
    checks = list(sense.look(replace(Settings(), **changes)))
    assert status in {check.status for check in checks}
    assert all(check.mend for check in checks)


def test_a_port_that_somebody_else_has(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1], data_dir=tmp_path)
        assert machine.port(settings, None).status == "problem"
        ours = Running(1, "http://127.0.0.1:1", "", "", True)
        assert machine.port(settings, ours).status == "ok"
    assert machine.port(replace(settings, port=0), None).status == "ok"


def test_a_data_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (check,) = machine.folder(Settings(data_dir=tmp_path / "file" / "below"))
    assert (check.name, check.status) == ("data folder", "problem")
    assert next(machine.folder(Settings(data_dir=tmp_path / "new"))).status == "ok"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db.example:5433/k", "postgresql://me:***@db.example:5433/k"),
        ("postgresql://me@/k?host=/run/pg&password=secret", "postgresql://me@/run/pg/k"),
        ("redis://:secret@cache:6379/0", "redis://:***@cache:6379/0"),
        ("unix:///run/v.sock?password=secret", "unix:///run/v.sock"),
        ("redis://:sec/ret@cache:6379", "(a URL that cannot be read)"),
    ],
)
def test_no_secret_is_shown(url, shown):
    assert servers.masked(url) == shown


async def test_servers_that_are_not_there(tmp_path: Path):
    checks, _ = await examine(
        Settings(
            data_dir=tmp_path,
            port=0,
            database_url="postgresql://me:secret@127.0.0.1:1/k",
            valkey_url="redis://:secret@127.0.0.1:1",
        )
    )
    gone = [check for check in checks if check.status == "problem"]
    assert [check.name for check in gone] == ["PostgreSQL", "Valkey"]
    assert "secret" not in str(checks)


def test_when_nothing_runs_that_is_said_and_no_problem(tmp_path: Path):
    done = CliRunner().invoke(app, ["--data-dir", str(tmp_path), "--port", "0", "--json"])
    told = json.loads(done.stdout)
    assert "korder up" in told["note"]
    assert told["ok"] is (done.exit_code == 0) is True
    assert {c["name"] for c in told["checks"]} >= {"Python", "packages", "disk", "settings"}

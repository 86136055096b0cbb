"""`korder audit`, `rush` and `doctor` as commands on a running system."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Servers


def korder(system: Servers, *args: str) -> tuple[int, Any]:
    """Status and decoded JSON of one command."""
    argv = [sys.executable, "-m", "korder", *args, "--json", "--data-dir", str(system.data_dir)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def rushed(system: Servers, tmp_path: Path) -> dict[str, Any]:
    report = tmp_path / "rush.html"
    options = ["--members", "200", "--tickets", "100", "--requests-per-member", "2"]
    options += ["--max-per-member", "1", "--report", str(report)]
    status, told = korder(system, "rush", *options)
    assert status == 0, told
    assert "Everything right" in report.read_text()
    return told


def test_a_rush_sells_exactly_what_there_is(system: Servers, rushed: dict[str, Any]):
    assert rushed["ok"]
    assert rushed["figures"]["tickets_held"] == 100
    assert rushed["figures"]["requests"] == 400
    kinds = {answer["kind"]: answer["count"] for answer in rushed["figures"]["answers"]}
    assert kinds.pop("held") == 100
    assert set(kinds) <= {"sold_out", "limit_exceeded"}
    assert sum(kinds.values()) == 300
    assert [f for f in rushed["findings"] if f["failed"]] == []


def test_a_second_rush_for_what_is_sold_out(system: Servers, rushed: dict[str, Any]):
    event = rushed["stage"]["event_id"]
    status, told = korder(system, "rush", "--members", "50", "--event", event)
    assert status == 0, told
    assert [(a["kind"], a["count"]) for a in told["figures"]["answers"]] == [("sold_out", 50)]


def test_the_audit_is_clean_and_judges_the_running_parts(system: Servers, rushed: dict[str, Any]):
    status, told = korder(system, "audit")
    assert status == 0
    assert told["ok"]
    assert told["judged_running"]
    assert {f["invariant"] for f in told["findings"]} >= {1, 2, 3, 5, 6, 7}


def test_the_doctor_finds_the_running_system_well(system: Servers):
    status, told = korder(system, "doctor")
    assert status == 0
    assert told["note"] == ""
    found = {check["name"]: check["status"] for check in told["checks"]}
    for name in ("PostgreSQL", "durability", "schema", "clock", "Valkey", "eviction", "port"):
        assert found[name] == "ok", told


def test_an_audit_that_cannot_be_done_has_its_own_status():
    argv = [sys.executable, "-m", "korder", "audit"]
    argv += ["--database-url", "postgresql://a:secret@127.0.0.1:1/x"]
    argv += ["--valkey-url", "redis://127.0.0.1:1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert done.returncode == 2
    assert "PostgreSQL is not reachable" in done.stderr
    assert "secret" not in done.stderr

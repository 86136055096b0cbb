"""Commands say what is wrong before they do anything, and their help says all there is to set."""

from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from korder.cli import audit, up
from korder.cli.checks import sense
from korder.settings import Settings

WIDE = {"COLUMNS": "500", "TERMINAL_WIDTH": "500", "NO_COLOR": "1"}


def test_the_help_names_flag_unit_default_and_variable_of_every_setting():
    done = CliRunner().invoke(up.app, ["--help"], env=WIDE)
    lines = done.stdout.splitlines()
    for item in fields(Settings):
        flag = f"--{item.name.replace('_', '-')} "
        (line,) = [line for line in lines if flag in line]
        assert f"env {item.metadata['env']})" in line
        assert item.metadata["unit"] in line
        assert f"[default: ({item.default or (0 if item.default == 0 else 'none')})]" in line
    assert "completion" not in done.stdout


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--queue-max", "0"),
        ("--batch-max", "0"),
        ("--api-processes", "-1"),
        ("--port", "99999"),
        ("--access-token-s", "0"),
        ("--metrics-networks", "here"),
    ],
)
def test_up_does_not_start_on_what_nothing_can_run_with(flag: str, value: str, tmp_path: Path):
    done = CliRunner().invoke(up.app, [flag, value, "--data-dir", str(tmp_path / "data")])
    assert done.exit_code == 2
    assert "KORDER_" in done.stderr
    assert not (tmp_path / "data").exists()


def test_no_audit_metrics_is_a_setting_and_not_a_mistake():
    (check,) = sense.look(Settings(audit_interval_s=0))
    assert check.status == "ok"


def test_a_folder_without_data_is_not_called_clean(tmp_path: Path):
    folder = tmp_path / "mistyped"
    done = CliRunner().invoke(audit.app, ["--data-dir", str(folder)])
    assert done.exit_code == 2
    assert str(folder) in done.stderr
    assert not folder.exists()

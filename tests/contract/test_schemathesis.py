"""Schemathesis over the whole OpenAPI document: no 5xx, and no answer that it does not describe.

503 counts as a failure too: the system is well. Statuses are held to what is listed by name, so the
catch-all `default` answer is taken out of the document first.

Not checked is `positive_data_acceptance`: a schema cannot say that a time has not passed, that a
cursor is one of ours, or (JSON Schema takes 3.0 for an integer, the contract does not) how a
number is written.
"""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.contract.client import Api, Person, in_s, wish
from tests.contract.conftest import Logged

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "use_after_free",
    "ensure_resource_availability",
]
#: They end the session that the other calls need: run apart, with members of their own.
ENDING = ["POST /v1/auth/logout", "DELETE /v1/users/me"]
TESTED = re.compile(r"Tested: (\d+)")


def config(ids: dict[str, str], cancelled: str) -> str:
    """A configuration file: real ids where a random one would only ever be not found."""
    parameters = "\n".join(f'"path.{name}" = "{value}"' for name, value in ids.items())
    return f"""
color = false
workers = 2
continue-on-failure = true
[headers]
Authorization = "Bearer ${{KORDER_TEST_TOKEN}}"
[checks.response_schema_conformance]
validate-formats = true
[generation]
database = "none"
deterministic = true
no-shrink = true
[phases.examples]
fill-missing = true
[parameters]
{parameters}
[[operations]]
include-path = "/v1/events/{{event_id}}/cancel"
[operations.parameters]
"path.event_id" = "{cancelled}"
"""


async def run(system: Logged, folder: Path, token: str, *arguments: str) -> tuple[int, str]:
    """Exit status and words of a run on the document in the folder."""
    argv = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"),
        *("openapi.json", "--url", system.base_url, "--checks", ",".join(CHECKS)),
        *arguments,
    ]
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=folder,
        env={**os.environ, "KORDER_TEST_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, told.decode()


def assert_clean(status: int, told: str, operations: int) -> None:
    """It found nothing, and it did look at that many operations."""
    assert status == 0, told[-20_000:]
    tested = TESTED.search(told)
    assert tested, told
    assert int(tested[1]) == operations, told


def exemplify(document: dict[str, Any], schema: str, **values: Any) -> None:
    """Give fields an example that is not only of the right form but there."""
    for name, value in values.items():
        document["components"]["schemas"][schema]["properties"][name]["examples"] = [value]


@pytest.fixture
async def folder(api: Api, organizer: Person, admin: Person, tmp_path: Path) -> Path:
    """With the document and the configuration."""
    await api.db.execute(
        "UPDATE users.members SET roles = '{member,organizer,admin}' WHERE id::text = $1", admin.id
    )
    document: dict[str, Any] = await api.ok("GET", "/openapi.json")
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("default", None)
    event, other = [await api.on_sale(admin, capacity=100_000) for _ in range(2)]
    ids = {
        "event_id": event["id"],
        "ticket_type_id": event["ticket_types"][0]["id"],
        "reservation_id": (await api.held(admin, event))["id"],
        "member_id": (await api.person()).id,
    }
    exemplify(document, "ReserveBody", **wish(event, 2))
    exemplify(document, "EventBody", starts_at=in_s(86_400))
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(config(ids, other["id"]))
    return tmp_path


@pytest.mark.slow
async def test_every_answer_is_as_described(api: Api, system: Logged, folder: Path, admin: Person):
    apart = [word for name in ENDING for word in ("--exclude-name", name)]
    status, told = await run(system, folder, admin.token, *apart, "--max-examples", "50")
    document = json.loads((folder / "openapi.json").read_text())
    everything = sum(len(operations) for operations in document["paths"].values())
    assert_clean(status, told, everything - len(ENDING))
    quantities = [item["quantity"] for item in await api.walk("/v1/reservations", by=admin)]
    assert 2 in quantities, "it came as far as a hold"


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDING)
async def test_what_ends_a_session_is_as_described(
    system: Logged, folder: Path, member: Person, name: str
):
    chosen = ("--include-name", name, "--max-examples", "10")
    assert_clean(*await run(system, folder, member.token, *chosen), 1)


async def test_a_wrong_description_is_noticed(system: Logged, folder: Path, admin: Person):
    """The negative control: were the answer another one, it would say so."""
    path = folder / "openapi.json"
    document = json.loads(path.read_text())
    document["components"]["schemas"]["Member"]["properties"]["points"] = {"type": "string"}
    path.write_text(json.dumps(document))
    chosen = ("--include-name", "GET /v1/users/me", "--max-examples", "1")
    status, told = await run(system, folder, admin.token, *chosen)
    assert status == 1, told
    assert "Response violates schema" in told

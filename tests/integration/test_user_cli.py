"""The member commands as processes of their own, on the tests' servers."""

import asyncio
import json
import os
import stat
import sys

import pytest

from tests.accounts import Accounts, refused


@pytest.fixture
def korder(servers, clean, tmp_path):
    async def run(*argv: str, **env: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "korder",
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "DATABASE_URL": servers.database_url,
                "VALKEY_URL": servers.valkey_url,
                "KORDER_DATA_DIR": str(tmp_path / "data"),
                **env,
            },
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    return run


async def test_ten_thousand_members_in_twenty_seconds(korder, pool, tmp_path) -> None:
    file = tmp_path / "tokens.txt"
    argv = ("members", "mint", "--count", "10000", "--out", str(file), "--json")
    status, out, err = await korder(*argv)
    assert status == 0, err
    told = json.loads(out)
    assert told["count"] == 10_000
    assert told["seconds"] < 20
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tokens = file.read_text().split()
    assert len(set(tokens)) == 10_000
    accounts = await Accounts(pool).start()
    try:
        assert (await accounts.me(tokens[-1])).json()["name"] == "Member 10000"
    finally:
        await accounts.close()


async def test_a_mint_that_fails_leaves_no_file_and_no_member(korder, pool, tmp_path) -> None:
    file = tmp_path / "tokens.txt"
    status, _, err = await korder(
        "members",
        "mint",
        "--count",
        "5",
        "--out",
        str(file),
        DATABASE_URL="postgresql://@/x?port=1",
    )
    assert status == 1
    assert "korder: " in err
    assert not [path for path in tmp_path.iterdir() if "tokens" in path.name]
    status, _, _ = await korder("members", "mint", "--count", "5", "--out", "/no/such/folder/x")
    assert status == 2
    assert await pool.fetchval("SELECT count(*) FROM users.members") == 0


async def test_the_first_admin(korder, pool) -> None:
    create = ("admin", "create", "--email", "root@example.com", "--json")
    status, _, err = await korder(*create)
    assert (status, "a password is needed" in err) == (2, True)
    status, _, err = await korder(*create, "--password", "short")
    assert (status, "password:" in err) == (1, True)
    status, out, err = await korder(*create, KORDER_ADMIN_PASSWORD="correct horse")
    assert status == 0, err
    assert json.loads(out)["did"] == "created"
    status, out, _ = await korder(*create, "--password", "another horse")
    assert (status, json.loads(out)["did"]) == (0, "unchanged")
    accounts = await Accounts(pool).start()
    try:
        assert (await accounts.login("root@example.com", "correct horse")).status_code == 200
        refused(await accounts.login("root@example.com", "another horse"), 401, "unauthenticated")
    finally:
        await accounts.close()


async def test_keys_are_rotated_and_listed(korder, pool) -> None:
    accounts = await Accounts(pool).start()
    await accounts.close()
    status, out, err = await korder("keys", "rotate", "--json")
    assert status == 0, err
    kid = json.loads(out)["kid"]
    _, out, _ = await korder("keys", "list", "--json")
    listed = json.loads(out)["keys"]
    assert [key["state"] for key in listed] == ["next", "signing"]
    assert listed[0]["kid"] == kid
    assert "private" not in out
    _, out, _ = await korder("keys", "list")
    assert "signing" in out

"""What the benchmarks share: a whole Korder of their own, members, an event, and wrk."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KORDER = [sys.executable, "-m", "korder"]


@dataclass
class Lab:
    """A running system: `info` is its run.json."""

    folder: Path
    info: dict[str, Any]
    env: dict[str, str]

    @property
    def url(self) -> str:
        return str(self.info["base_url"])

    def korder(self, *args: str) -> str:
        """Run a command of the CLI on this system; its standard output."""
        done = subprocess.run(
            [*KORDER, *args, "--data-dir", str(self.folder)],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"korder {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def children(self) -> dict[str, int]:
        """Process ids by name, as they are now."""
        return dict(json.loads((self.folder / "run.json").read_text())["children"])


@contextlib.contextmanager
def running(**settings: str) -> Iterator[Lab]:
    """`korder up` in a temporary folder, on a free port; stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="korder-bench-"))
    folder.chmod(0o711)
    env = {
        **os.environ,
        "KORDER_LOG_LEVEL": "warning",
        "KORDER_AUDIT_INTERVAL_SECONDS": "0",
        **settings,
    }
    up = subprocess.Popen(
        [*KORDER, "up", "--json", "--port", "0", "--data-dir", str(folder / "data")],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stdout is not None
        line = up.stdout.readline()
        if not line:
            raise RuntimeError("korder up did not start")
        yield Lab(folder / "data", json.loads(line), env)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Sale:
    event_id: str
    ticket_type_id: str
    tokens: Path


def open_sale(
    lab: Lab,
    *,
    capacity: int,
    members: int,
    hold_seconds: int = 3600,
    max_per_member: int | None = None,
) -> Sale:
    """Members with tokens (a file, one a line), and a published event of one ticket type."""
    tokens = lab.folder / "tokens.txt"
    if not tokens.exists():
        lab.korder("members", "mint", "--count", str(members), "--out", str(tokens))
        lab.korder(
            "admin", "create", "--email", "bench@example.com", "--password", "only-for-the-bench"
        )
    admin = call(
        lab,
        "POST",
        "/v1/auth/login",
        {"email": "bench@example.com", "password": "only-for-the-bench"},
    )["access_token"]
    event = call(
        lab,
        "POST",
        "/v1/events",
        {
            "title": "Bench",
            "venue": "Here",
            "starts_at": "2099-01-01T00:00:00Z",
            "hold_seconds": hold_seconds,
            "ticket_types": [
                {
                    "name": "Standing",
                    "price": 50_000,
                    "capacity": capacity,
                    "max_per_member": max_per_member,
                }
            ],
        },
        admin,
    )
    call(lab, "POST", f"/v1/events/{event['id']}/publish", None, admin)
    return Sale(event["id"], event["ticket_types"][0]["id"], tokens)


def call(lab: Lab, method: str, path: str, body: Any = None, token: str = "") -> Any:
    """One JSON request."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        lab.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


@dataclass
class Run:
    """What wrk said. Latencies in ms, `rate` in requests/s."""

    rate: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    other: int
    socket_errors: int


_UNIT = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def wrk(url: str, script: str, *, connections: int, seconds: float, env: dict[str, str]) -> Run:
    """Load `url` with one thread of wrk."""
    binary = shutil.which("wrk")
    if binary is None:
        raise SystemExit("the benchmarks need wrk (Debian: apt-get install wrk)")
    out = subprocess.run(
        [
            binary,
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout",
            "10s",
            "--latency",
            "-s",
            str(HERE / script),
            url,
        ],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return Run(
        rate=float(_find(r"Requests/sec:\s+([\d.]+)", out)),
        p50_ms=_time(r"\b50%\s+([\d.]+)(us|ms|s)", out),
        p90_ms=_time(r"\b90%\s+([\d.]+)(us|ms|s)", out),
        p99_ms=_time(r"\b99%\s+([\d.]+)(us|ms|s)", out),
        max_ms=_time(r"Latency\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", out),
        requests=int(_find(r"(\d+) requests in", out)),
        other=int(_find(r"Non-2xx or 3xx responses: (\d+)", out, "0")),
        socket_errors=sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", out)),
    )


def _find(pattern: str, text: str, default: str | None = None) -> str:
    found = re.search(pattern, text)
    if found is None:
        if default is None:
            raise RuntimeError(f"wrk said something else:\n{text}")
        return default
    return found.group(1)


def _time(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk said something else:\n{text}")
    return float(found.group(1)) * _UNIT[found.group(2)]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    load = os.getloadavg()[0]
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "python": sys.version.split()[0],
        "load_before": round(load, 2),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }

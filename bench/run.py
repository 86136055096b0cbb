"""All benchmarks, their results kept in bench/results, and the README's table made of them.

    python -m bench.run [--quick]

They need wrk, and a machine with nothing else to do. `--quick` shortens every run, prints the
same tables, and keeps nothing.
"""

import argparse
import subprocess
import sys
from pathlib import Path

RESULTS = Path("bench/results")  # from the project's folder, where `make bench` runs


def main() -> int:
    """Run one after the other; the first failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    throughput = ["bench.throughput"]
    profile = ["bench.profile"]
    million = ["bench.million"]
    if quick:
        throughput += ["--seconds", "3", "--rounds", "1"]
        profile += ["--seconds", "2"]
        million += ["--count", "100000"]
    else:
        RESULTS.mkdir(exist_ok=True)
        throughput += ["--out", str(RESULTS / "throughput.json")]
        profile += ["--out", str(RESULTS / "profile.json")]
        million += ["--out", str(RESULTS / "million.json")]
    steps = [throughput, profile, million] + ([] if quick else [["bench.readme"]])
    for step in steps:
        print(f"\n== python -m {' '.join(step)}", flush=True)
        if subprocess.run([sys.executable, "-m", *step], check=False).returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write requirements.lock and requirements-dev.lock from pyproject.toml: `make lock`.

Names, versions and the hashes of every platform's files, for Python 3.11 and newer, and no index
address: whoever installs uses their own. Versions stay as they are unless `--upgrade` is given.
The resolver (uv) goes into a venv of its own that is gone afterwards; installing needs only pip.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Written by `make lock`. Names, versions and hashes; the index is the reader's own.\n"
COMPILE = (
    "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes",
    "--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate",
    "pyproject.toml", "-",
)  # fmt: skip


def main(*more: str) -> None:
    """Compile the runtime lock, then the dev lock, which keeps all of its versions."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "uv"],
            check=True,
        )
        uv = (str(python), "-m", "uv")
        write("requirements.lock", *uv, *COMPILE, *more)
        write("requirements-dev.lock", *uv, *COMPILE, "--extra", "dev", "-c", "requirements.lock")


def write(name: str, *command: str) -> None:
    """Compile into `name`. hatchling is an input, because Korder itself is built with it."""
    subprocess.run(
        [*command, "--output-file", name],
        cwd=ROOT, input="hatchling\n", text=True, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    path = ROOT / name
    path.write_text(HEADER + path.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

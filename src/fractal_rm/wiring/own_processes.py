"""Runs modules of this program in processes of their own, for work that a node must not load."""

from __future__ import annotations

import os
import subprocess
import sys


def run_module(
    module: str, *arguments: str, within_s: float, given: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a module until it ends. ``given`` is its input. Blocks.

    Raises TimeoutExpired, with the output until then, and OSError if it cannot be started.
    """
    return subprocess.run(  # noqa: S603 - this program itself
        [sys.executable, "-m", module, *arguments],
        input=given,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=within_s,
        check=False,
    )

"""Makes cases from runs, in a process of its own: the command `runs record`.

So a node that nobody asks for a case never loads the simulation.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

from fractal_rm.domain.case_report import CaseText
from fractal_rm.wiring.own_processes import run_module

SECONDS = 20
PROGRAM = "fractal_rm.cli.main"
_NOT_PASSED = 1  # the exit code of a case that was made, and does not pass yet


class RecordedCases:
    """Makes cases. One process runs at a time; others wait for it.

    ``folder`` returns the folder of the configuration.
    """

    def __init__(self, folder: Callable[[], Path], seconds: int = SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds
        self._one_at_a_time = asyncio.Lock()

    async def record(self, run_id: str) -> CaseText:
        """The case of a run that has ended, as text for flows.cases.toml."""
        folder = self._folder()
        async with self._one_at_a_time:
            return await asyncio.to_thread(_record, folder, run_id, self._seconds)


def _record(folder: Path, run_id: str, seconds: int) -> CaseText:
    arguments = "runs", "record", run_id, "--config", str(folder)
    try:
        ended = run_module(PROGRAM, *arguments, within_s=seconds)
    except subprocess.TimeoutExpired:
        return CaseText(fault=f"it took more than {seconds} s")
    except OSError as error:
        return CaseText(fault=f"a process for it cannot be started: {error.strerror or error}")
    said = ended.stderr.decode("utf-8", "replace").strip()
    if ended.returncode not in (0, _NOT_PASSED) or not ended.stdout:
        return CaseText(fault=said.rpartition("\n")[2].removeprefix("error: ")[:400])
    notes = "".join(f"# {line}\n" for line in said.splitlines())
    return CaseText(notes + ended.stdout.decode("utf-8", "replace"))

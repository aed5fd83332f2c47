"""Runs the cases with a draft of flows.conf, in a process of its own (`cases.draft`)."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.cases.draft import Begin
from fractal_rm.cases.read import FILE
from fractal_rm.domain.case_report import MAX_CASES, NO_CASES, CaseReport, CaseResult
from fractal_rm.wiring.own_processes import run_module

SECONDS = 10
MODULE = "fractal_rm.cases.draft"


class DraftCases:
    """Runs cases. One process runs at a time; others wait for it.

    ``folder`` returns the folder of the configuration.
    """

    def __init__(self, folder: Callable[[], Path], seconds: int = SECONDS) -> None:
        self._folder = folder
        self._seconds = seconds
        self._one_at_a_time = asyncio.Lock()

    async def run(self, draft: str) -> CaseReport:
        """Run the cases of the folder with a text of flows.conf that has no errors."""
        folder = self._folder()
        async with self._one_at_a_time:
            return await asyncio.to_thread(_run, folder, draft, self._seconds)


def _run(folder: Path, draft: str, seconds: int) -> CaseReport:
    if not os.path.lexists(folder / FILE):
        return NO_CASES
    arguments = str(folder), str(seconds)
    try:
        ended = run_module(MODULE, *arguments, within_s=seconds + 2, given=draft.encode())
    except subprocess.TimeoutExpired as error:
        return report_of(error.stdout or b"", f"they took more than {seconds} s")
    except OSError as error:
        return CaseReport(fault=f"a process for them cannot be started: {error.strerror or error}")
    if ended.returncode == 0:
        return report_of(ended.stdout, "")
    if ended.returncode < 0:  # a signal: SIGXCPU, SIGALRM, or the kernel had no memory
        return report_of(ended.stdout, f"they took more than {seconds} s, or too much memory")
    last_line = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return report_of(ended.stdout, f"their process ended with an error: {last_line[:200]}")


def report_of(output: bytes, fault: str) -> CaseReport:
    """The report from the output of the process. Its last line may be incomplete."""
    first, *lines = output.split(b"\n")[:-1] or [b"{}"]
    begin = msgspec.json.decode(first, type=Begin)
    results = tuple(msgspec.json.decode(line, type=CaseResult) for line in lines)
    if not fault and begin.total > MAX_CASES:
        fault = f"only the first {MAX_CASES} are run here; `fractal-rm flows test` runs all"
    return CaseReport(results, begin.total, begin.fault or fault)

"""Runs the cases with a draft of flows.conf, in a process of its own.

A draft may contain flows that take long or grow without end. In a process of its own, with limits,
they slow no run of the node. The draft is read from standard input; each line of the output is a
JSON text: first the number of cases, then each result as soon as it is known. So results are not
lost when the process is ended.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from fractal_rm.cases.judge import Difference
from fractal_rm.cases.run import Verdict, load_cases, run_case
from fractal_rm.config.compile import FILES, compile_config
from fractal_rm.config.load import read_file
from fractal_rm.domain.case_report import (
    MAX_CASES,
    MAX_DIFFERENCES,
    MAX_TEXT,
    CaseDifference,
    CaseResult,
)
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected

MAX_MEMORY = 512 * 1024 * 1024  # bytes of address space beyond what the program has at its start
NICENESS = 15


class Begin(msgspec.Struct, frozen=True):
    """The first line. ``fault`` says why no case can be run."""

    total: int = 0
    fault: str = ""


def main() -> None:
    """Run the cases of the folder ``argv[1]``, for at most ``argv[2]`` seconds."""
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    _limit(seconds)
    draft = sys.stdin.buffer.read().decode()
    texts = {file: read_file(folder / file) for file in FILES} | {"flows.conf": draft}
    try:
        config = compile_config(texts, folder, os.environ).config
        cases = load_cases(folder, config)
    except ConfigRejected as error:
        _say(Begin(fault=error.findings[0].headline()[:MAX_TEXT]))
        return
    _say(Begin(len(cases)))
    for case in cases[:MAX_CASES]:
        try:
            result = _result(run_case(case, config))
        except (FractalError, MemoryError) as error:
            reason = str(error) or "it needs too much memory"
            fault = CaseDifference("the run", "an end", reason[:MAX_TEXT])
            result = CaseResult(case.name, case.flow, case.line, (fault,))
        _say(result)


def _limit(seconds: int) -> None:
    """Limit the time and the memory of this process. Where this is forbidden, its parent ends it.

    The alarm ends this process even if its parent has ended.
    """
    _ = signal.alarm(seconds + 1)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MAX_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with suppress(OSError):
        _ = os.nice(NICENESS)


def _result(verdict: Verdict) -> CaseResult:
    differences = tuple(map(_difference, verdict.differences[:MAX_DIFFERENCES]))
    return CaseResult(verdict.name, verdict.flow, verdict.line, differences)


def _difference(found: Difference) -> CaseDifference:
    expected, got = found.expected[:MAX_TEXT], found.got[:MAX_TEXT]
    return CaseDifference(found.what[:MAX_TEXT], expected, got, found.line or 0)


def _say(value: Begin | CaseResult) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

"""Where findings about one flows.conf are gathered."""

from __future__ import annotations

from fractal_rm.domain.findings import Finding, Level
from fractal_rm.flowlang.scan import Line, Word


class Report:
    """Findings in the order in which they were made."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.findings: list[Finding] = []

    def add(
        self,
        code: str,
        line: Line,
        at: Word,
        text: str,
        hint: str | None = None,
        *,
        level: Level = Level.ERROR,
    ) -> None:
        """Add a finding at a word of a line."""
        self.findings.append(Finding(self._file, at.place, code, text, hint, level, line.text))

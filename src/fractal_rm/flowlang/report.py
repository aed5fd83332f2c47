"""Collects the findings of one flows.conf, and limits their number."""

from __future__ import annotations

from collections.abc import Collection

from fractal_rm.domain import findings
from fractal_rm.domain.findings import MAX_SHOWN_FINDINGS, Finding, Level, hidden_findings
from fractal_rm.flowlang.scan import Line, Word

MOST_OF_A_LINE = 20
MOST_CHARACTERS = 400  # of a text: a word may be as long as the file
LONGEST_WORD = 60  # for which a similar known word is searched
MOST_COMPARED = 100_000  # words: the search is the slowest part


class Report:
    """Findings in the order in which they are added. Above the limits they are only counted."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._kept: list[Finding] = []
        self._line = 0
        self._of_this_line = 0
        self._hidden: list[Level] = []
        self._compared = 0

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
        if line.number != self._line:
            self._line, self._of_this_line = line.number, 0
        self._of_this_line += 1
        if self.full or self._of_this_line > MOST_OF_A_LINE:
            self._hidden.append(level)
            return
        texts = _shortened(text), hint and _shortened(hint)
        self._kept.append(Finding(self._file, at.place, code, *texts, level, line.text))

    def warn(self, code: str, line: Line, at: Word, text: str, hint: str | None = None) -> None:
        """Add a warning: the flows can still be used."""
        self.add(code, line, at, text, hint, level=Level.WARNING)

    @property
    def full(self) -> bool:
        """Whether further findings are only counted."""
        return len(self._kept) >= MAX_SHOWN_FINDINGS

    def only_counts(self, line: Line) -> bool:
        """Whether a further finding of a line is only counted, so that it needs no hint."""
        return self.full or (line.number == self._line and self._of_this_line >= MOST_OF_A_LINE)

    def findings(self) -> list[Finding]:
        """All findings in the order of the file. The last one says how many are not shown."""
        kept = sorted(self._kept, key=lambda found: (found.place.line, found.place.column))
        return kept + hidden_findings(self._file, "F136", self._hidden)

    def nearest(self, word: str, known: Collection[str]) -> str | None:
        """The known word that was probably meant; None if there is none, or after many searches."""
        return findings.nearest(word, known) if self._may_search(word, known) else None

    def did_you_mean(self, word: str, known: Collection[str]) -> str | None:
        """A hint: the nearest known word; if there is none, all known words if they are few."""
        return findings.did_you_mean(word, known) if self._may_search(word, known) else None

    def _may_search(self, word: str, known: Collection[str]) -> bool:
        if self.full or len(word) > LONGEST_WORD or self._compared > MOST_COMPARED:
            return False
        self._compared += len(known)
        return True


def _shortened(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}…{text[-half:]}"

"""Collects the findings of one flows.conf, and limits their number."""

from __future__ import annotations

from collections.abc import Collection

from fractal_rm.domain import findings
from fractal_rm.domain.findings import MAX_SHOWN_FINDINGS, Finding, Level, hidden_findings
from fractal_rm.flowlang.scan import Line, Word

MAX_SHOWN_IN_LINE = 20
MAX_CHARACTERS = 400  # of a finding's text, which may quote a word that is as long as the file
MAX_SEARCHED_CHARACTERS = 60  # for a longer word, no similar known word is searched
MAX_COMPARED = 100_000  # known words that all searches together compare: searches are slow


class Report:
    """Collects findings. Findings above the limits are counted, but not stored."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._shown: list[Finding] = []
        self._line = 0
        self._count_in_line = 0
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
            self._line, self._count_in_line = line.number, 0
        self._count_in_line += 1
        if self.is_full or self._count_in_line > MAX_SHOWN_IN_LINE:
            self._hidden.append(level)
            return
        text, hint = _shortened(text), hint and _shortened(hint)
        self._shown.append(Finding(self._file, at.place, code, text, hint, level, line.text))

    def warn(self, code: str, line: Line, at: Word, text: str, hint: str | None = None) -> None:
        """Add a warning: the flows can still be used."""
        self.add(code, line, at, text, hint, level=Level.WARNING)

    @property
    def is_full(self) -> bool:
        """Whether all other findings of the file are only counted."""
        return len(self._shown) >= MAX_SHOWN_FINDINGS

    def would_only_count(self, line: Line) -> bool:
        """Whether another finding of the line would only be counted, and so needs no hint."""
        return self.is_full or (
            line.number == self._line and self._count_in_line >= MAX_SHOWN_IN_LINE
        )

    def findings(self) -> list[Finding]:
        """All findings in the order of the file. The last finding says how many are not shown."""
        sorted_findings = sorted(self._shown, key=lambda each: (each.place.line, each.place.column))
        return sorted_findings + hidden_findings(self._file, "F136", self._hidden)

    def nearest(self, word: str, known_words: Collection[str]) -> str | None:
        """The known word that was probably meant. None if no word is similar.

        Also None after too many searches (`MAX_COMPARED`).
        """
        return findings.nearest(word, known_words) if self._may_search(word, known_words) else None

    def did_you_mean(self, word: str, known_words: Collection[str]) -> str | None:
        """A hint with the nearest known word, or with all known words if they are few. Or None."""
        return (
            findings.did_you_mean(word, known_words)
            if self._may_search(word, known_words)
            else None
        )

    def _may_search(self, word: str, known_words: Collection[str]) -> bool:
        if self.is_full or len(word) > MAX_SEARCHED_CHARACTERS or self._compared > MAX_COMPARED:
            return False
        self._compared += len(known_words)
        return True


def _shortened(text: str) -> str:
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]}…{text[-half:]}"

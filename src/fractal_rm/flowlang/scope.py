"""What words mean at one call of a flow: payload, resultN, and the names that calls were given."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fractal_rm.domain.expression import Payload, Reference, Result
from fractal_rm.domain.findings import did_you_mean, nearest
from fractal_rm.flowlang.path import NoPath, read_path
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word

# For the nearest right word: a flow may have thousands of calls, and as many words that are wrong.
LOOKED_THROUGH = 30

_RESULT = re.compile(r"result([1-9][0-9]{0,5})")


class Scope:
    """Looks words up as call ``number`` of a flow sees them.

    ``names`` are those of the whole flow. ``asked`` gathers of which calls the flow asks for the
    status, and for which headers. In an EXPECT the call's own answer can be referred to:
    ``own_too``.
    """

    def __init__(self, names: Mapping[str, int], report: Report, *, doubtful: bool) -> None:
        self.report = report
        self.asked: dict[int, set[str]] = {}
        self.number = 1
        self.own_too = False
        self.asks_own_status = False
        self._names = names
        self._doubtful = doubtful

    def reference(self, line: Line, word: Word, *more: str) -> Reference | None:
        """What a word refers to, or None with a finding; ``more`` is what it could be besides."""
        name, dot, path = word.text.partition(".")
        at = word
        if dot:
            start = word.place.column - 1
            at = line.word(start, start + len(name))
        number = 0 if name == "payload" else self.call(line, at, "payload", *more)
        picked = self._path(line, word, path) if dot else ""
        if number is None or picked is None:
            return None
        return Result(number, picked) if number else Payload(picked)

    def call(self, line: Line, word: Word, *more: str) -> int | None:
        """The number of the call that a word names, or None with a finding."""
        found = _RESULT.fullmatch(word.text)
        number = int(found[1]) if found else self._names.get(word.text)
        if number is None:
            self._unknown(line, word, more)
        elif number >= self.number + self.own_too and not self._doubtful:
            self._too_early(line, word, number, named=found is None)
        return number

    def ask(self, number: int, header: str | None = None) -> None:
        """Note that the flow asks for the status of a call, or for a header of its answer."""
        if number == self.number:
            self.asks_own_status = self.asks_own_status or header is None
        else:
            asked = self.asked.setdefault(number, set())
            if header is not None:
                asked.add(header)

    def _unknown(self, line: Line, word: Word, more: tuple[str, ...]) -> None:
        last = self.number - 1 + self.own_too
        named = [name for name, number in self._names.items() if number <= last][-LOOKED_THROUGH:]
        results = range(max(1, last + 1 - LOOKED_THROUGH), last + 1)
        known = [*more, *(f"result{n}" for n in results), *named]
        if self._doubtful and nearest(word.text, known) is None:
            return  # the line that would have given the name was perhaps not understood
        what = "neither payload nor a result" if "payload" in more else "no call of this flow"
        hint = did_you_mean(word.text, known)
        if len(more) > 1 and nearest(word.text, known) is None:
            hint = f'if it is a text, it stands in quotes: "{word.text}"'
        self.report.add("F107", line, word, f'"{word.text}" is {what}', hint)

    def _too_early(self, line: Line, word: Word, number: int, *, named: bool) -> None:
        before = f"only {self.number - 1} came before" if self.number > 1 else "none came before"
        is_there = f"it names call {number}, " if named else ""
        own = number == self.number
        hint = "only EXPECT can look at the answer of its own call" if named and own else None
        self.report.add("F108", line, word, f"{word.text} is not there yet: {is_there}"
                        f"this is call {self.number}, {before}", hint)  # fmt: skip

    def _path(self, line: Line, word: Word, path: str) -> str | None:
        """The JMESPath at the end of a word, out of its quotes. None: there is a finding."""
        try:
            return read_path(path)
        except NoPath as fault:
            end = line.after(word)
            at = line.word(end - len(path), end) if path else word
            self.report.add("F121", line, at, str(fault), fault.hint)
            return None

"""What words mean at one step of a flow: payload, resultN, names, item; endpoints and flows."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping

import msgspec

from fractal_rm.domain.expression import Expression, Item, Payload, Reference, Result
from fractal_rm.flowlang.path import NoPath, read_path
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.tree import ToNode
from fractal_rm.flowlang.words import on_its_own

# For the nearest right word: a flow may have thousands of calls, and as many words that are wrong.
LOOKED_THROUGH = 30

BASE64 = "base64"  # base64(ref) is bytes as text
Endpoints = Mapping[str, Collection[str]]  # component name -> names of its endpoints

BASE64_STANDS = "base64(ref) is an item, or a value in a template: it writes as text what RAW sends"

_RESULT = re.compile(r"result([1-9][0-9]{0,5})")


class Around(msgspec.Struct, frozen=True):
    """What a flow can refer to outside of itself."""

    endpoints: Endpoints
    flows: Collection[str]


class Scope:
    """Looks words up as a step of a flow sees them.

    ``number`` is that of the step or, where it does not count, of the next one that does.
    ``names`` are those of the whole flow, in the order of its calls. ``target`` is the ``TO`` that
    the step stands under. ``asked`` gathers of which calls the flow asks for the status, and for
    which headers; ``headless`` are calls that have neither, and why. ``item``: the step is made for
    each element of a list. In an EXPECT the call's own answer can be referred to: ``own_too``.
    """

    def __init__(
        self, names: Mapping[str, int], around: Around, report: Report, *, doubtful: bool
    ) -> None:
        self.report = report
        self.around = around
        self.target: ToNode | None = None
        self.asked: dict[int, set[str]] = {}
        self.headless: dict[int, str] = {}
        self.number = 1
        self.counts = True
        self.item = False
        self.own_too = False
        self.asks_own_status = False
        self._names = names
        self._doubtful = doubtful
        self._named = list(names)
        self._numbers = list(names.values())
        self._skippable: dict[int, Expression] = {}
        self._used: dict[int, tuple[Line, Word]] = {}  # what this step uses of those
        self._looked_at: set[int] = set()
        self._deciding = False

    # --- references ---------------------------------------------------------------------------

    def reference(self, line: Line, word: Word, *more: str) -> Reference | None:
        """What a word refers to, or None with a finding; ``more`` is what it could be besides."""
        if word.text.startswith('"'):
            self.report.add("F107", line, word, f"{word.text} is a text, and no reference",
                            "a text stands in a JSON template only")  # fmt: skip
            return None
        if word.text.startswith(f"{BASE64}("):
            self.report.add("F142", line, word, f"{BASE64} cannot stand here", BASE64_STANDS)
            return None
        name, dot, path = word.text.partition(".")
        at = word
        if dot:
            start = word.place.column - 1
            at = line.word(start, start + len(name))
        picked = self._path(line, word, path) if dot else ""
        if name == "item":
            return self._item(line, at, picked)
        number = 0 if name == "payload" else self.call(line, at, "payload", *more)
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
        elif number in self._skippable:
            if self._deciding:
                self._looked_at.add(number)
            else:
                self._used.setdefault(number, (line, word))
        return number

    def ask(self, line: Line, word: Word, number: int, header: str | None = None) -> None:
        """Note that the flow asks for the status of a call, or for a header of its answer."""
        if number == self.number and header is None:
            self.asks_own_status = True
            return
        if number in self.headless:
            self.report.add("F107", line, word,
                            f"{word.text} has no status and no headers: {self.headless[number]}",
                            "status and header ask about a call that is made once")  # fmt: skip
        asked = self.asked.setdefault(number, set())
        if header is not None:
            asked.add(header)

    def _item(self, line: Line, at: Word, path: str | None) -> Item | None:
        if not self.item:
            self.report.add("F130", line, at, "there is no item here: it is an element of FOREACH",
                            "item is known in what a call with FOREACH sends, and in its WHEN and"
                            " EXPECT")  # fmt: skip
            return None
        return None if path is None else Item(path)

    def _unknown(self, line: Line, word: Word, more: tuple[str, ...]) -> None:
        what = "neither payload nor a result" if "payload" in more else "no call of this flow"
        if self.report.only_counts(line):
            self.report.add("F107", line, word, what)
            return
        last = self.number - 1 + self.own_too
        upto = bisect_right(self._numbers, last)
        named = self._named[max(0, upto - LOOKED_THROUGH) : upto]
        results = range(max(1, last + 1 - LOOKED_THROUGH), last + 1)
        item = ["item"] if self.item and more else []
        known = [*more, *item, *(f"result{n}" for n in results), *named]
        near = self.report.nearest(word.text, known)
        meant = _meant(word.text, known)
        if self._doubtful and near is None and meant is None:
            return  # the line that would have given the name was perhaps not understood
        hint = meant or self.report.did_you_mean(word.text, known)
        if len(more) > 1 and near is None and meant is None:
            hint = f'if it is a text, it stands in quotes: "{word.text}"'
        self.report.add("F107", line, word, f'"{word.text}" is {what}', hint)

    def _too_early(self, line: Line, word: Word, number: int, *, named: bool) -> None:
        before = f"only {self.number - 1} came before" if self.number > 1 else "none came before"
        is_there = f"it names call {number}, " if named else ""
        this = f"this is call {self.number}, " if self.counts else "of the calls "
        own = number == self.number and self.counts and named
        hint = "only EXPECT and UNDO can look at the answer of their own call" if own else None
        what = f"{word.text} is not there yet: {is_there}{this}{before}"
        self.report.add("F108", line, word, what, hint)

    def _path(self, line: Line, word: Word, path: str) -> str | None:
        """The JMESPath at the end of a word, out of its quotes. None: there is a finding."""
        try:
            return read_path(path)
        except NoPath as fault:
            end = line.after(word)
            at = line.word(end - len(path), end) if path else word
            self.report.add("F121", line, at, str(fault), fault.hint)
            return None

    # --- calls that may be skipped ------------------------------------------------------------

    def deciding(self, yes: bool) -> None:
        """From here on, or no longer, a condition is read: it may look at what is not there."""
        self._deciding = yes

    def may_skip(self, condition: Expression) -> None:
        """Note that the call of this step is made only where a condition is true."""
        self._skippable[self.number] = condition

    def warn_of_skipped(self, parts: Collection[Expression]) -> None:
        """Say which results the step uses that may not be there, and end the step.

        ``parts`` all hold when it is done: the same condition as that of the call, or a look at
        the call, says that its author knows.
        """
        for number, (line, word) in self._used.items():
            if number not in self._looked_at and self._skippable[number] not in parts:
                what = f"{word.text} is null where the WHEN of call {number} is not true"
                hint = f"give this step a WHEN too, such as: WHEN {word.text} != null"
                self.report.warn("F133", line, word, what, hint)
        self._used, self._looked_at = {}, set()


def _meant(text: str, known: Collection[str]) -> str | None:
    """What helps with a word that is written in the manner of another language."""
    name, bracket, path = text.partition("[")
    if bracket and name in known:
        return f"a path begins with a dot: {name}.[{path}"
    if "," in text and text.partition(",")[0] in known:
        return "items stand with spaces between, without commas"
    return on_its_own(text)

"""Resolves the references of a step: payload, resultN, names of calls, item."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping

import msgspec

from fractal_rm.domain.expression import Expression, Item, Payload, Reference, Result
from fractal_rm.flowlang.path import PathError, read_path
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.skipped import SkippedResults
from fractal_rm.flowlang.tree import ToNode
from fractal_rm.flowlang.words import modifier_hint

# A similar name is searched only among the last 30 calls: a flow may have thousands of calls.
MAX_SEARCHED = 30

BASE64 = "base64"  # base64(reference) writes bytes as text
Endpoints = Mapping[str, Collection[str]]  # component name -> names of its endpoints

BASE64_HINT = (
    "base64 can be used as in POST base64(result1), in a JSON template, and in HEADER and QUERY"
)

_RESULT = re.compile(r"result([1-9][0-9]{0,5})")


class KnownNames(msgspec.Struct, frozen=True):
    """The names that a flow can refer to: endpoints and other flows."""

    endpoints: Endpoints
    flows: Collection[str]


class StepContext(msgspec.Struct):
    """What is known about the step that is being read.

    ``number``: the number of the step or, if ``is_numbered`` is false, of the next numbered step.
    ``target``: the ``TO`` above the step. ``item_allowed``: ``item`` can be used.
    ``own_answer_allowed``: the answer of the step's own call can be used, as in EXPECT.
    ``has_used_own_status``: the status of this answer was used.
    """

    number: int = 1
    is_numbered: bool = True
    target: ToNode | None = None
    item_allowed: bool = False
    own_answer_allowed: bool = False
    has_used_own_status: bool = False

    @property
    def last_usable(self) -> int:
        """The number of the last call whose result the step can use."""
        return self.number - 1 + self.own_answer_allowed


class CallNames:
    """The names of a flow's calls, in the order of the calls."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._by_name = numbers
        self._names = list(numbers)
        self._numbers = list(numbers.values())

    def number(self, name: str) -> int | None:
        """The number of the call with this name. None if there is no such call."""
        return self._by_name.get(name)

    def last_names(self, last: int) -> list[str]:
        """The names of the calls with numbers up to ``last``; at most the last 30 names."""
        end = bisect_right(self._numbers, last)
        return self._names[max(0, end - MAX_SEARCHED) : end]


class Scope:
    """Resolves the words of a flow, step by step.

    ``kept_headers`` has, by call number, the names of the headers that the flow uses; the set is
    empty if the flow uses only the status. ``calls_without_status`` has, by call number, the reason
    why a call has no status and no headers. ``incomplete``: a line of the flow could not be parsed,
    so a name may be missing.
    """

    def __init__(
        self, names: Mapping[str, int], known_names: KnownNames, report: Report, *, incomplete: bool
    ) -> None:
        self.report = report
        self.known_names = known_names
        self.step = StepContext()
        self.skipped = SkippedResults()
        self.kept_headers: dict[int, set[str]] = {}
        self.calls_without_status: dict[int, str] = {}
        self._names = CallNames(names)
        self._incomplete = incomplete

    # --- references ---------------------------------------------------------------------------

    def reference(self, line: Line, word: Word, *also_allowed: str) -> Reference | None:
        """Read the reference in a word. None if it has an error, which is reported.

        ``also_allowed`` are other words that the caller accepts. A finding may suggest them.
        """
        if word.text.startswith('"'):
            self.report.add("F107", line, word, f"{word.text} is a text, not a reference",
                            "a text can only be in a JSON template")  # fmt: skip
            return None
        if word.text.startswith(f"{BASE64}("):
            self.report.add("F142", line, word, f"{BASE64} cannot be used here", BASE64_HINT)
            return None
        name, dot, path = word.text.partition(".")
        at = word
        if dot:
            start = word.place.column - 1
            at = line.part(start, start + len(name))
        checked_path = self._read_path(line, word, path) if dot else ""
        if name == "item":
            return self._read_item(line, at, checked_path)
        if name == "payload":
            return None if checked_path is None else Payload(checked_path)
        number = self.call(line, at, "payload", *also_allowed)
        if number is None or checked_path is None:
            return None
        return Result(number, checked_path)

    def call(self, line: Line, word: Word, *also_allowed: str) -> int | None:
        """The number of the call that a word names. None if there is no such call.

        Also reports an error if this step cannot use the result of the call yet.
        """
        match = _RESULT.fullmatch(word.text)
        number = int(match[1]) if match else self._names.number(word.text)
        if number is None:
            self._report_unknown(line, word, also_allowed)
        elif number > self.step.last_usable and not self._incomplete:
            self._report_too_early(line, word, number, is_name=match is None)
        else:
            self.skipped.note_use(number, line, word)
        return number

    def note_status_use(
        self, line: Line, word: Word, number: int, header: str | None = None
    ) -> None:
        """Note that the flow uses the status of a call, or a header of its answer."""
        if number == self.step.number and header is None:
            self.step.has_used_own_status = True
            return
        if number in self.calls_without_status:
            reason = self.calls_without_status[number]
            self.report.add("F107", line, word,
                            f"{word.text} has no status and no headers: {reason}",
                            "use status and header with a call without FOREACH")  # fmt: skip
        headers = self.kept_headers.setdefault(number, set())
        if header is not None:
            headers.add(header)

    def _read_item(self, line: Line, at: Word, path: str | None) -> Item | None:
        if not self.step.item_allowed:
            self.report.add(
                "F130",
                line,
                at,
                "item can only be used in a call with FOREACH",
                "a call with FOREACH can send item, and test item in WHEN and EXPECT",
            )
            return None
        return None if path is None else Item(path)

    def _report_unknown(self, line: Line, word: Word, also_allowed: tuple[str, ...]) -> None:
        fault = (
            "neither payload nor a result" if "payload" in also_allowed else "no call of this flow"
        )
        if self.report.would_only_count(line):
            self.report.add("F107", line, word, fault)
            return
        last = self.step.last_usable
        results = range(max(1, last + 1 - MAX_SEARCHED), last + 1)
        item = ["item"] if self.step.item_allowed and also_allowed else []
        call_names = self._names.last_names(last)
        known_words = [*also_allowed, *item, *(f"result{n}" for n in results), *call_names]
        similar_word = self.report.nearest(word.text, known_words)
        syntax_hint = _foreign_hint(word.text, known_words)
        if self._incomplete and similar_word is None and syntax_hint is None:
            return  # the line that could not be parsed may define the name
        hint = syntax_hint or self.report.did_you_mean(word.text, known_words)
        if len(also_allowed) > 1 and similar_word is None and syntax_hint is None:
            hint = f'write a text in quotes: "{word.text}"'
        self.report.add("F107", line, word, f'"{word.text}" is {fault}', hint)

    def _report_too_early(self, line: Line, word: Word, number: int, *, is_name: bool) -> None:
        step = self.step
        if not step.is_numbered:
            calls_before = step.number - 1
            texts = {0: "no call is", 1: "only 1 call is"}
            text = texts.get(calls_before, f"only {calls_before} calls are")
            reason = f"{text} before this line"
        elif is_name:
            reason = f"it is the result of call {number}, and this is call {step.number}"
        else:
            reason = f"this is call {step.number}"
        is_own = number == step.number and step.is_numbered and is_name
        hint = "only EXPECT and UNDO can use the answer of their own call" if is_own else None
        self.report.add("F108", line, word, f"{word.text} is not known yet: {reason}", hint)

    def _read_path(self, line: Line, word: Word, path: str) -> str | None:
        """Read the JMESPath at the end of a word. None if it has an error, which is reported."""
        try:
            return read_path(path)
        except PathError as error:
            end = line.index_after(word)
            at = line.part(end - len(path), end) if path else word
            self.report.add("F121", line, at, str(error), error.hint)
            return None

    def end_step(self, true_conditions: Collection[Expression]) -> None:
        """End the step. Warn of the results that the step uses although they may be null.

        ``true_conditions`` are all conditions that are true when the step is made.
        """
        for number, line, word in self.skipped.end_step(true_conditions):
            text = f"{word.text} is null if call {number} is skipped by its WHEN"
            hint = f"add a WHEN to this step too, such as: WHEN {word.text} != null"
            self.report.warn("F133", line, word, text, hint)


def _foreign_hint(text: str, known_words: Collection[str]) -> str | None:
    """The hint for a word in the syntax of another language, such as ``result1[0]``.

    None for all other words.
    """
    name, bracket, path = text.partition("[")
    if bracket and name in known_words:
        return f"write the path after a dot: {name}.[{path}"
    if "," in text and text.partition(",")[0] in known_words:
        return "separate items by spaces, without commas"
    return modifier_hint(text)

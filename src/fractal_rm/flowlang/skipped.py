"""Finds steps that use the results of calls that may be skipped."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fractal_rm.domain.expression import Expression
from fractal_rm.flowlang.scan import Line, Word


class SkippedResults:
    """The results of a flow that are null if their call is skipped.

    ``in_condition``: a condition is being read. A condition may use such a result, because it can
    test whether the result is null.
    """

    def __init__(self) -> None:
        self.in_condition = False
        self._conditions: dict[int, Expression] = {}  # call number -> its WHEN
        self._used: dict[int, tuple[Line, Word]] = {}  # calls whose results the current step uses
        self._tested: set[int] = set()  # calls whose results a condition of the step tests

    def add_condition(self, number: int, condition: Expression) -> None:
        """Note the condition (WHEN) of a call."""
        self._conditions[number] = condition

    def note_use(self, number: int, line: Line, word: Word) -> None:
        """Note that the current step refers to the result of a call."""
        if number not in self._conditions:
            return
        if self.in_condition:
            self._tested.add(number)
        else:
            self._used.setdefault(number, (line, word))

    def end_step(self, true_conditions: Collection[Expression]) -> Iterator[tuple[int, Line, Word]]:
        """The results that the current step uses although they may be null.

        ``true_conditions`` are all conditions that are true when the step is made. A use is safe if
        the step tests the result, or if the condition of its call is in ``true_conditions``.
        """
        for number, (line, word) in self._used.items():
            if number not in self._tested and self._conditions[number] not in true_conditions:
                yield number, line, word
        self._used, self._tested = {}, set()

"""Limit the number of values that an evaluation reads, because an evaluation blocks the node.

The time to parse JSON or to apply a path grows with the number of values, about half a microsecond
for each. The length of the values hardly matters (docs/decisions/0016-bounded-evaluation.md).
"""

from __future__ import annotations

from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.strict_json import outside_strings

MAX_VALUES = 100_000


class TooManyValues(CannotEvaluate):
    """An evaluation would read more values than its budget allows."""

    code = "too-many-values"


class ValueBudget:
    """Counts the values that the expressions of one step read together."""

    __slots__ = ("_left", "_max")

    def __init__(self, maximum: int = MAX_VALUES) -> None:
        self._max = self._left = maximum

    def take(self, count: int) -> None:
        """Take ``count`` values from the budget. Raises TooManyValues if too few are left."""
        self._left -= count
        if self._left < 0:
            raise TooManyValues(
                f"a step would read more than {self._max:,} values (max_evaluated_values in"
                " comm.conf)"
            )

    def take_text(self, text: str) -> None:
        """Take the largest number of values that a JSON text can have. Raises TooManyValues."""
        count = _max_values(text)
        if count > self._left:  # commas and brackets in strings may have been counted
            # Each value has at most four quotes: its own and those of its key. So a text with more
            # quotes than this has too many values.
            count = _max_values(outside_strings(text, 4 * self._left))
        self.take(count)


def _max_values(text: str) -> int:
    """An upper bound of the number of values in a JSON text."""
    return text.count(",") + text.count("[") + text.count("{") + 1

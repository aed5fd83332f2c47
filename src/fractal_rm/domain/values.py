"""How many values one evaluation may look at: nothing else is done on the node meanwhile.

What JSON takes to be read, and a path to pick from it, grows with the number of values and hardly
with their length: half a microsecond for each (docs/decisions/0016-bounded-evaluation.md).
"""

from __future__ import annotations

from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.strict_json import outside_strings

MOST_VALUES = 100_000


class TooManyValues(CannotEvaluate):
    """It would look at more values than one evaluation may."""

    code = "too-many-values"


class Values:
    """What one evaluation, of all that a step says, may still look at."""

    __slots__ = ("_left", "_most")

    def __init__(self, most: int = MOST_VALUES) -> None:
        self._most = self._left = most

    def take(self, count: int) -> None:
        """Look at so many. Raises TooManyValues."""
        self._left -= count
        if self._left < 0:
            raise TooManyValues(
                f"a step would look at more than {self._most:,} values (max_evaluated_values in"
                " comm.conf)"
            )

    def take_text(self, text: str) -> None:
        """Look at all values of a JSON text. Raises TooManyValues."""
        count = _marks(text)
        if count > self._left:  # some may stand in strings
            # More quotes than that are too many values, even where every other string is a key.
            count = _marks(outside_strings(text, 4 * self._left))
        self.take(count)


def _marks(text: str) -> int:
    """At least as many as there are values."""
    return text.count(",") + text.count("[") + text.count("{") + 1

"""Lines of waiting runs, one for each flow, which are served in turn.

Lines of a higher priority are served first. But every `FAIR_TURN`-th turn begins at another
priority, so that no line starves. This module uses no clock and no I/O.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Union

from msgspec import UNSET

from fractal_rm.domain.admission import FAIR_TURN
from fractal_rm.domain.flow import QueueSettings
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE

DEFAULT_PRIORITY = QueueSettings().priority
_LAST_ATTEMPT = ""  # replaces the flow id for runs on their last attempt
# Flow id, priority, and whether the runs have begun here. A run that has begun holds a permit of
# its flow (LIMIT), so it must not wait behind runs that need a permit.
_LineKey = tuple[str, int, bool]


class _Line:
    """The waiting runs of one flow, first come, first served."""

    __slots__ = ("key", "runs")

    def __init__(self, key: _LineKey) -> None:
        self.key = key
        self.runs: deque[Run] = deque()

    def first(self) -> Run:
        return self.runs[0]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


class _LabelledLine:
    """A line of labelled runs. A run can be removed before its turn, by its label."""

    __slots__ = ("key", "runs")

    def __init__(self, key: _LineKey) -> None:
        self.key = key
        self.runs: OrderedDict[str, Run] = OrderedDict()

    def first(self) -> Run:
        return next(iter(self.runs.values()))

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs.values())


_Level = deque[Union[_Line, _LabelledLine]]  # the non-empty lines of one priority


class Lines:
    """All lines. `take` chooses the next run."""

    def __init__(self) -> None:
        self._lines: dict[_LineKey, _Line] = {}
        self._labelled: dict[_LineKey, _LabelledLine] = {}
        self._line_by_label: dict[str, _LabelledLine] = {}  # the line of the run with this label
        # By priority, highest first. There are at most ten levels, so empty levels stay.
        self._levels: dict[int, _Level] = {DEFAULT_PRIORITY: deque()}
        self._turns = 0

    def add(self, run: Run, *, last_attempt: bool = False) -> None:
        """Put a run at the end of its line."""
        key = _line_key(run, last_attempt)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key)
            self._level(key).append(line)
        line.runs.append(run)

    def add_labelled(self, label: str, run: Run, *, last_attempt: bool = False) -> None:
        """Add a run under a label. It takes the position of a waiting run with the same label."""
        key = _line_key(run, last_attempt)
        line_of_label = self._line_by_label.get(label)
        if line_of_label is not None and line_of_label.key != key:  # the priority has changed
            self.remove(label)
        line = self._labelled.get(key)
        if line is None:
            line = self._labelled[key] = _LabelledLine(key)
            self._level(key).append(line)
        line.runs[label] = run
        self._line_by_label[label] = line

    def ids(self) -> Iterator[str]:
        """The ids of all waiting runs."""
        for line in (*self._lines.values(), *self._labelled.values()):
            yield from (run.id for run in line)

    def waiting(self) -> Counter[str]:
        """How many runs of each flow wait to begin."""
        count: Counter[str] = Counter()
        for line in (*self._lines.values(), *self._labelled.values()):
            flow, _, has_begun = line.key
            if not has_begun:
                count[flow] += len(line.runs)
        return count

    def oldest_waiting_ms(self) -> int | None:
        """The wall time when the first of the runs at the head of a line was accepted, or None.

        Runs that have begun are left out: they do not wait to begin.
        """
        lines = (*self._lines.values(), *self._labelled.values())
        return min((line.first().accepted_ms for line in lines if not line.key[2]), default=None)

    def labelled(self, label: str) -> Run | None:
        """The waiting run with a label, or None."""
        line = self._line_by_label.get(label)
        return None if line is None else line.runs[label]

    def remove(self, label: str) -> None:
        """Remove the run with a label before its turn."""
        line = self._line_by_label.pop(label)
        del line.runs[label]
        if not line.runs:
            self._level(line.key).remove(line)
            del self._labelled[line.key]

    def withdraw(self, run: Run) -> bool:
        """Remove a waiting run before its turn. Returns whether it waited."""
        ids = (run.flow.id, _LAST_ATTEMPT)
        for line in [line for key, line in self._lines.items() if key[0] in ids]:
            if run in line.runs:
                line.runs.remove(run)
                if not line.runs:
                    self._level(line.key).remove(line)
                    del self._lines[line.key]
                return True
        for labelled in [line for key, line in self._labelled.items() if key[0] in ids]:
            for label, other in labelled.runs.items():
                if other is run:
                    self.remove(label)
                    return True
        return False

    def take(self, may_begin: Callable[[Run, bool], bool]) -> tuple[Run, bool] | None:
        """Remove and return the next run, with whether it is on its last attempt. Or None.

        ``may_begin`` is called with the first run of a line, and whether it is on its last attempt.
        """
        for level in self._in_order():
            for _ in range(len(level)):
                line = level[0]
                level.rotate(-1)
                run, last_attempt = line.first(), line.key[0] == _LAST_ATTEMPT
                if may_begin(run, last_attempt):
                    self._turns += 1
                    self._remove_first(line)
                    if not line.runs:
                        level.pop()
                    return run, last_attempt
        return None

    def _in_order(self) -> Iterable[_Level]:
        levels = self._levels.values()
        if len(levels) == 1 or self._turns % FAIR_TURN:
            return levels
        first = self._turns // FAIR_TURN % len(levels)
        return [*levels][first:] + [*levels][:first]

    def _remove_first(self, line: _Line | _LabelledLine) -> None:
        """Remove the first run of a line."""
        if isinstance(line, _Line):
            line.runs.popleft()
            if not line.runs:
                del self._lines[line.key]
        else:
            label, _ = line.runs.popitem(last=False)
            del self._line_by_label[label]
            if not line.runs:
                del self._labelled[line.key]

    def _level(self, key: _LineKey) -> _Level:
        level = self._levels.get(key[1])
        if level is None:
            level = self._levels[key[1]] = deque()
            self._levels = dict(sorted(self._levels.items(), reverse=True))
        return level


def _line_key(run: Run, last_attempt: bool) -> _LineKey:
    has_begun = run.placement is HERE
    if last_attempt:
        return _LAST_ATTEMPT, DEFAULT_PRIORITY, has_begun
    queueing = run.flow.queueing
    return run.flow.id, DEFAULT_PRIORITY if queueing is UNSET else queueing.priority, has_begun

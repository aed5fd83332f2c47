"""Who is next: lines of runs, one for each flow, served in turn. No clock, no I/O.

Of the lines that may begin, those of a higher priority go first; but one turn in `FAIR_TURN` begins
at another priority, each in its turn, so that nothing waits for ever behind what is more urgent.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Union

from msgspec import UNSET

from fractal_rm.domain.admission import FAIR_TURN
from fractal_rm.domain.flow import Queueing
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE

DEFAULT_PRIORITY = Queueing().priority
_ALONE = ""  # the flow of the line of runs on their last attempt: none has an empty id
# Flow, priority, and whether its runs have begun here. Those that have count for the limit of their
# flow, so that they must not stand behind runs that it holds up.
_Key = tuple[str, int, bool]


class _Line:
    """First come, first served."""

    __slots__ = ("key", "runs")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.runs: deque[Run] = deque()

    def first(self) -> Run:
        return self.runs[0]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


class _LabelledLine:
    """A line that a run can leave before its turn, as each stands under a label."""

    __slots__ = ("key", "runs")

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.runs: OrderedDict[str, Run] = OrderedDict()

    def first(self) -> Run:
        return next(iter(self.runs.values()))

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs.values())


_Level = deque[Union[_Line, _LabelledLine]]  # the lines of one priority that have somebody in them


class Lines:
    """Runs in line, and whose turn it is."""

    def __init__(self) -> None:
        self._lines: dict[_Key, _Line] = {}
        self._labelled: dict[_Key, _LabelledLine] = {}
        self._where: dict[str, _LabelledLine] = {}  # the run under a label stands
        # By priority, highest first. One that was needed stays: there are ten at most.
        self._levels: dict[int, _Level] = {DEFAULT_PRIORITY: deque()}
        self._turns = 0

    def stand(self, run: Run, *, alone: bool = False) -> None:
        """Put a run at the end of its line."""
        key = _key(run, alone)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(key)
            self._level(key).append(line)
        line.runs.append(run)

    def stand_under(self, label: str, run: Run, *, alone: bool = False) -> None:
        """Put a run in a line that it can `leave`; it takes the place of the one that is there."""
        key = _key(run, alone)
        where = self._where.get(label)
        if where is not None and where.key != key:  # the flow has another priority now
            self.leave(label)
        line = self._labelled.get(key)
        if line is None:
            line = self._labelled[key] = _LabelledLine(key)
            self._level(key).append(line)
        line.runs[label] = run
        self._where[label] = line

    def ids(self) -> Iterator[str]:
        """The ids of all runs that stand in line."""
        for line in (*self._lines.values(), *self._labelled.values()):
            yield from (run.id for run in line)

    def waiting(self) -> Counter[str]:
        """How many runs of each flow stand in line to begin."""
        count: Counter[str] = Counter()
        for line in (*self._lines.values(), *self._labelled.values()):
            flow, _, has_begun = line.key
            if not has_begun:
                count[flow] += len(line.runs)
        return count

    def under(self, label: str) -> Run | None:
        """The run that stands under a label."""
        line = self._where.get(label)
        return None if line is None else line.runs[label]

    def leave(self, label: str) -> None:
        """Take out a run before its turn."""
        line = self._where.pop(label)
        del line.runs[label]
        if not line.runs:
            self._level(line.key).remove(line)
            del self._labelled[line.key]

    def take(self, may_begin: Callable[[Run, bool], bool]) -> tuple[Run, bool] | None:
        """The next run leaves its line, with whether it goes alone; None: none may begin.

        ``may_begin`` is asked about the first run of a line and whether it goes alone.
        """
        for level in self._in_order():
            for _ in range(len(level)):
                line = level[0]
                level.rotate(-1)
                run, alone = line.first(), line.key[0] == _ALONE
                if may_begin(run, alone):
                    self._turns += 1
                    self._shorten(line)
                    if not line.runs:
                        level.pop()
                    return run, alone
        return None

    def _in_order(self) -> Iterable[_Level]:
        levels = self._levels.values()
        if len(levels) == 1 or self._turns % FAIR_TURN:
            return levels
        first = self._turns // FAIR_TURN % len(levels)
        return [*levels][first:] + [*levels][:first]

    def _shorten(self, line: _Line | _LabelledLine) -> None:
        """The first of a line is no longer in it."""
        if isinstance(line, _Line):
            line.runs.popleft()
            if not line.runs:
                del self._lines[line.key]
        else:
            label, _ = line.runs.popitem(last=False)
            del self._where[label]
            if not line.runs:
                del self._labelled[line.key]

    def _level(self, key: _Key) -> _Level:
        level = self._levels.get(key[1])
        if level is None:
            level = self._levels[key[1]] = deque()
            self._levels = dict(sorted(self._levels.items(), reverse=True))
        return level


def _key(run: Run, alone: bool) -> _Key:
    begun = run.placement is HERE
    if alone:
        return _ALONE, DEFAULT_PRIORITY, begun
    queueing = run.flow.queueing
    return run.flow.id, DEFAULT_PRIORITY if queueing is UNSET else queueing.priority, begun

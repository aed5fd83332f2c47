"""Whether a node is well, in one line: what is wrong, and since when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from fractal_rm.domain.node_status import NodeStatus

BAD_SHARE = 0.1  # of the runs that end: from here on, the node is not well
NOW_MINUTES = 5  # runs that ended in this time say whether runs fail now
OVER_MS = 60_000  # after this time without trouble, trouble is said to be over

# What a check is about, if its name does not say it.
CHECK_NAMES = {"serving": "triggers", "mqtt": "broker", "rest": "REST", "room": "queue",
          "runs": "open runs"}  # fmt: skip


class Health(msgspec.Struct, frozen=True):
    """A tone (``ok``, ``wait`` or ``fail``), its sign, and words.

    ``since_ms``: since when, in milliseconds since 1970; None: this is not known. ``until_ms``:
    when it was over; None: it goes on. ``page``: where it is shown, relative to the overview.
    """

    tone: str
    sign: str
    text: str
    since_ms: int | None = None
    until_ms: int | None = None
    page: str = ""


class Trouble(msgspec.Struct, frozen=True):
    """Runs in trouble among the ``ended`` runs of the last minutes.

    ``since_ms``: when this began, in milliseconds since 1970. ``last_minute_ms``: the beginning of
    the last minute with a run in trouble; None: this is not known.
    """

    runs: int
    ended: int
    since_ms: int
    last_minute_ms: int | None = None

    def over_ms(self, last_ms: int | None, now_ms: int) -> int | None:
        """When it was over; None: it goes on. ``last_ms``: the end of the newest run, if known."""
        if self.last_minute_ms is None:
            return None
        ends_ms = self.last_minute_ms + 60_000 - 1
        is_known = last_ms is not None and self.last_minute_ms <= last_ms <= ends_ms
        over_ms = last_ms if last_ms is not None and is_known else ends_ms
        return over_ms if now_ms - over_ms >= OVER_MS else None

    @property
    def share(self) -> float:
        """The fraction of the ended runs that are in trouble."""
        return self.runs / max(1, self.ended)

    @property
    def share_words(self) -> str:
        """The fraction in words, never 0 % and never 100 % if it is not exactly that."""
        percent = 100 * self.share
        if percent < 1:
            return "under 1 %"
        return "all" if self.runs >= self.ended else f"{min(99, round(percent))} %"


def health_of(
    processes: Sequence[NodeStatus],
    silent: Sequence[str] = (),
    trouble: Trouble | None = None,
    last_trouble_ms: int | None = None,
    now_ms: int = 0,
    others: Sequence[Health] = (),
) -> Health:
    """The health of a node. The worst condition is named.

    ``silent`` are the journals whose process does not answer. ``last_trouble_ms`` is when the
    newest run in trouble ended, if any. ``others`` are other conditions that are not well.
    """
    over_ms = None if trouble is None else trouble.over_ms(last_trouble_ms, now_ms)
    problems = _problems(processes, silent, trouble, over_ms, others)
    started_ms = max((each.started_ms for each in processes), default=0)
    well = Health("ok", "●", "well", max(started_ms, last_trouble_ms or 0) or None)
    return next(problems, well)


def _problems(
    processes: Sequence[NodeStatus],
    silent: Sequence[str],
    trouble: Trouble | None,
    over_ms: int | None,
    others: Sequence[Health],
) -> Iterator[Health]:
    """What is wrong, the worst first."""
    draining = any(each.draining for each in processes)
    # A node that drains does not accept triggers, which its check "serving" says, too.
    expected = {"serving"} if draining else set[str]()
    faults = dict.fromkeys(
        name for each in processes for name, ok, _ in each.checks if not ok and name not in expected
    )
    if faults:
        times = [each.faults_since_ms[name] for each in processes for name in faults
                 if name in each.faults_since_ms]  # fmt: skip
        text = f"not well: {', '.join(CHECK_NAMES.get(name, name) for name in faults)}"
        yield Health("fail", "✗", text, min(times, default=None), page="#conditions")
    if silent:
        yield Health("fail", "✗", f"no answer from the process {', '.join(silent)}")
    if trouble is not None and over_ms is None and trouble.share >= BAD_SHARE:
        yield _of_trouble("fail", "✗", trouble)
    yield from others
    if draining:
        yield Health("wait", "‖", "draining")
    if any(each.paused for each in processes):
        yield Health("wait", "‖", "paused")
    opened = [
        each for process in processes for each in process.components if each.circuit == "open"
    ]
    if opened:
        names = ", ".join(dict.fromkeys(each.component for each in opened))
        times = [each.since_ms for each in opened if each.since_ms is not None]
        yield Health("wait", "!", f"circuit open: {names}", min(times, default=None),
                     page="components")  # fmt: skip
    if trouble is not None and over_ms is not None:
        yield Health("wait", "!", "runs failed", trouble.since_ms, over_ms, "failures")
    elif trouble is not None:
        yield _of_trouble("wait", "!", trouble)


def _of_trouble(tone: str, sign: str, trouble: Trouble) -> Health:
    share = trouble.share_words
    words = "all runs fail" if share == "all" else f"{share} of runs fail"
    text = f"{words} ({NOW_MINUTES} min)"
    return Health(tone, sign, text, trouble.since_ms, page="failures")

"""Whether a node is well, in one line: what is wrong, and since when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from fractal_rm.domain.node_status import NodeStatus

BAD_SHARE = 0.1  # of the runs that end: from here on, the node is not well

# What a check is about, if its name does not say it.
CHECK_NAMES = {"serving": "triggers", "mqtt": "broker", "rest": "REST", "room": "queue",
          "runs": "open runs"}  # fmt: skip


class Health(msgspec.Struct, frozen=True):
    """A tone (``ok``, ``wait`` or ``fail``), its sign, and words.

    ``since_ms``: since when, in milliseconds since 1970; None: this is not known.
    """

    tone: str
    sign: str
    text: str
    since_ms: int | None = None


class Trouble(msgspec.Struct, frozen=True):
    """Runs in trouble among the ``ended`` runs of the last minutes.

    ``since_ms``: when this began, in milliseconds since 1970.
    """

    runs: int
    ended: int
    since_ms: int

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
) -> Health:
    """The health of a node. The worst condition is named.

    ``silent`` are the journals whose process does not answer. ``last_trouble_ms`` is when the
    newest run in trouble ended, if any.
    """
    problems = _problems(processes, silent, trouble)
    started_ms = max((each.started_ms for each in processes), default=0)
    well = Health("ok", "●", "well", max(started_ms, last_trouble_ms or 0) or None)
    return next(problems, well)


def _problems(
    processes: Sequence[NodeStatus], silent: Sequence[str], trouble: Trouble | None
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
        yield Health("fail", "✗", text, min(times, default=None))
    if silent:
        yield Health("fail", "✗", f"no answer from the process {', '.join(silent)}")
    if trouble is not None and trouble.share >= BAD_SHARE:
        yield _of_trouble("fail", "✗", trouble)
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
        yield Health("wait", "!", f"circuit open: {names}", min(times, default=None))
    if trouble is not None:
        yield _of_trouble("wait", "!", trouble)


def _of_trouble(tone: str, sign: str, trouble: Trouble) -> Health:
    words = (
        "all runs fail" if trouble.share_words == "all" else f"{trouble.share_words} of runs fail"
    )
    return Health(tone, sign, words, trouble.since_ms)

"""The bars of a waterfall: what a run did, and when, from its facts."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    ElementFinished,
    Finished,
    Offered,
    OfferInDoubt,
    Parked,
    Placed,
    Released,
    Replying,
    RequestStarted,
    Restarted,
    Settled,
    StepFailed,
    StepPassed,
    StepUndone,
    WaitStarted,
    request_name,
    undo_request_name,
)
from fractal_rm.domain.flow import Call, SubFlow
from fractal_rm.domain.state import State
from fractal_rm.domain.story.bar import Bar, Elements
from fractal_rm.domain.story.placing import is_here, placement
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import RunToTell
from fractal_rm.domain.story.words import cut, duration

MAX_REASON = 160  # characters of a reason in the words of a bar
QUEUE_MS = 2  # a shorter wait before a request is not drawn


class Bars:
    """Collects the bars of each lane, by its key: ``place``, ``end``, or the name of a request."""

    def __init__(self, told: RunToTell) -> None:
        self.by_lane: dict[str, list[Bar]] = {}
        self.elements: dict[int, Elements] = {}
        self.texts: dict[str, str] = {}
        self._told = told
        self._steps = Steps(told)
        self._last_ms = float(told.accepted_ms)  # the end of what was before
        self._begun_ms: dict[str, float] = {}  # when each request in flight was sent
        self._again_ms: dict[str, float] = {}  # when the next attempt of each request begins
        self._done: set[str] = set()
        self._is_here = False
        self._offer: tuple[float, str, str] | None = None
        self._parked_ms: float | None = None
        self._waits: dict[int, float] = {}
        self._replying: tuple[float, State] | None = None
        self._is_one_by_one = told.flow is None or told.flow.order is UNSET

    def add(self, at_ms: int, fact: AnyFact) -> None:  # noqa: C901, PLR0912 - each kind of fact
        """Add what a fact says."""
        match fact:
            case Placed():
                self._placed(at_ms, fact)
            case Offered():
                self._offer = float(at_ms), fact.node, ""
            case OfferInDoubt() if self._offer is not None:
                self._offer = *self._offer[:2], cut(fact.reason, MAX_REASON)
            case Restarted():
                self._interrupt(at_ms)
            case RequestStarted():
                self._begun_ms[request_name(fact.step, fact.part)] = at_ms
            case Finished() | ElementFinished() | StepUndone():
                self._answered(at_ms, fact)
            case StepFailed():
                self._failed(at_ms, fact)
            case WaitStarted():
                self._waits[fact.position] = at_ms
            case StepPassed():
                self._passed(at_ms, fact)
            case Parked():
                self._parked_ms = at_ms
            case Released():
                self._end_parked(at_ms)
            case Replying():
                self._replying = float(at_ms), fact.state
            case Settled():
                self._settled(at_ms, fact)
            case _:
                pass
        if isinstance(fact, StepFailed) and fact.retry_at is not UNSET:
            at_ms = max(at_ms, fact.retry_at.wall_ms)
        if not isinstance(fact, RequestStarted) or self._is_one_by_one:
            self._last_ms = max(self._last_ms, at_ms)

    def finish(self) -> None:
        """Add what goes on now. A run that has ended has nothing of the kind."""
        told, now_ms = self._told, self._told.now_ms
        if told.state.final:
            return
        if self._offer is not None:
            begin_ms, node, doubt = self._offer
            text = f"offered to node {node}" + (f": {doubt}" if doubt else "")
            self._bar("place", begin_ms, now_ms, "offer", "away", node, text, is_open=True)
        if self._parked_ms is not None:
            text = "parked: it waits for an operator"
            self._bar("place", self._parked_ms, now_ms, "parked", "doubt", "parked", text,
                      is_open=True)  # fmt: skip
        elif "place" not in self.by_lane:
            self._bar("place", told.accepted_ms, now_ms, "queue", "wait", "", "waits for its turn",
                      is_open=True)  # fmt: skip
        for position, begin_ms in self._waits.items():
            self._bar(f"@{position}", begin_ms, now_ms, "wait", "wait", "", "waits", is_open=True)
        for name, begin_ms in self._begun_ms.items():
            text = "sent, and not answered yet"
            self._bar(_lane_of(name), begin_ms, now_ms, "call", "wait", "…", text, is_open=True)
        for name, begin_ms in self._again_ms.items():
            if begin_ms < now_ms:
                text = "tried again, and not answered yet"
                self._bar(_lane_of(name), begin_ms, now_ms, "call", "wait", "…", text, is_open=True)
        self._add_step_in_flight()
        if self._replying is not None:
            begin_ms, _ = self._replying
            self._bar("end", begin_ms, now_ms, "reply", "wait", "…", "the reply is being published",
                      is_open=True)  # fmt: skip

    def _add_step_in_flight(self) -> None:
        """The step that is in flight, if no fact says that it was sent: the first without a result.

        A flow whose steps are independent of each other has facts about requests in flight.
        """
        told = self._told
        is_placed = told.state is State.RUNNING or (told.state is State.ACCEPTED and self._is_here)
        is_open = any(bar.is_open for bars in self.by_lane.values() for bar in bars)
        if told.flow is None or not is_placed or is_open or not self._is_one_by_one:
            return
        for position, step in enumerate(told.flow.steps):
            name = str(step.number) if isinstance(step, (Call, SubFlow)) else f"@{position}"
            if name not in self._done:
                text = "waits for its answer, or for its turn"
                self._bar(name, self._last_ms, told.now_ms, "call", "wait", "…", text, is_open=True)
                return

    # --- the placement and the end ----------------------------------------------------------------

    def _placed(self, at_ms: int, fact: Placed) -> None:
        begin_ms = self._last_ms
        if self._offer is not None:
            begin_ms, node, doubt = self._offer
            text = f"offered to node {node}, which did not take it"
            text += f": {doubt}" if doubt else ""
            self._bar("place", begin_ms, at_ms, "offer", "doubt", node, text)
        else:
            text, is_problem = placement(fact, self._told, after_offer=False)
            tone = "doubt" if is_problem else "quiet"
            self._bar("place", begin_ms, at_ms, "queue", tone, "", text)
        self._offer = None
        self._is_here = is_here(fact, self._told)
        if not self._is_here:  # no fact says that the other node is asked, until it may have it
            self._offer = float(at_ms), str(fact.node), ""

    def _settled(self, at_ms: int, fact: Settled) -> None:
        if self._offer is not None:
            begin_ms, node, doubt = self._offer
            is_taken = fact.state is State.HANDED_OFF
            text = f"node {node} has it" if is_taken else f"offered to node {node}"
            text += f": {doubt}" if doubt and not is_taken else ""
            tone = "away" if is_taken else "doubt"
            self._bar("place", begin_ms, at_ms, "offer", tone, node, text)
            self._offer = None
        self._end_parked(at_ms)
        if self._replying is not None:
            begin_ms, _ = self._replying
            self._bar("end", begin_ms, at_ms, "reply", "quiet", "", "the reply was published")
        for position, begin_ms in self._waits.items():
            self._bar(f"@{position}", begin_ms, at_ms, "wait", "quiet", "", "the WAIT was ended")
        for name, begin_ms in self._begun_ms.items():
            text = "sent; its answer is not known"
            self._bar(_lane_of(name), begin_ms, at_ms, "call", "doubt", "?", text)

    def _end_parked(self, at_ms: int) -> None:
        if self._parked_ms is not None:
            text = f"parked for {duration(max(0, at_ms - self._parked_ms))}"
            self._bar("place", self._parked_ms, at_ms, "parked", "doubt", "parked", text)
            self._parked_ms = None

    def _interrupt(self, at_ms: int) -> None:
        """The node was started again: what was in flight is made again, or its answer is lost."""
        for name, begin_ms in self._begun_ms.items():
            text = "sent, and then the node was started again"
            self._bar(_lane_of(name), begin_ms, at_ms, "call", "doubt", "restart", text)
        self._begun_ms.clear()

    # --- steps ------------------------------------------------------------------------------------

    def _answered(self, at_ms: int, fact: Finished | ElementFinished | StepUndone) -> None:
        name = _name_of(fact)
        begun_ms = self._begun(name)
        if not isinstance(fact, ElementFinished):
            self._done.add(name)
        if isinstance(fact, Finished) and self._is_taken_over(at_ms, fact):
            self.texts[name] = "taken over from the run that this run repeats"
            return
        if isinstance(fact, ElementFinished):
            elements = self.elements.setdefault(fact.step, Elements())
            elements.add(at_ms, fact)
            return
        if not fact.took_ms:  # skipped, a RUN, or a FOREACH
            is_result = isinstance(fact, Finished) and bytes(fact.result) != b"null"
            if is_result and isinstance(self._steps.numbered(fact.step), SubFlow):
                self._bar(name, self._last_ms, at_ms, "call", "ok", "", "its run succeeded")
            return
        begin_ms = max(at_ms - fact.took_ms, self._told.accepted_ms)
        self._queue(name, begin_ms, begun_ms)
        text = f"answered {fact.status} after {duration(fact.took_ms)}"
        tone = "quiet" if name.startswith("undo.") else "ok"
        self._bar(name, begin_ms, at_ms, "call", tone, str(fact.status), text)

    def _is_taken_over(self, at_ms: int, fact: Finished) -> bool:
        first = self._told.facts[0][1]
        if not isinstance(first, Accepted) or first.replays is UNSET:
            return False
        if first.from_step is not UNSET:
            return fact.step < first.from_step
        return fact.took_ms > at_ms - self._told.facts[0][0]

    def _failed(self, at_ms: int, fact: StepFailed) -> None:
        name = request_name(fact.step, fact.part)
        begun_ms = self._begun(name)
        begin_ms = min(self._last_ms if begun_ms is None else begun_ms, at_ms)
        label = "" if fact.answer is UNSET else str(fact.answer.status)
        label = label or ("" if fact.cause is UNSET else fact.cause.text)
        begin = f"attempt {fact.attempt}" if fact.attempt else "it"
        text = f"{begin} failed after {duration(at_ms - begin_ms)}: {cut(fact.reason, MAX_REASON)}"
        tone = "doubt" if fact.unknown is True else "fail"
        lane = _lane_of(name)
        self._bar(lane, begin_ms, at_ms, "call", tone, label, text)
        if fact.retry_at is not UNSET:
            again_ms = max(at_ms, fact.retry_at.wall_ms)
            end_ms = again_ms if self._told.state.final else min(again_ms, self._told.now_ms)
            pause = duration(again_ms - at_ms)
            text = f"a pause of {pause} before attempt {fact.attempt + 1}"
            self._bar(lane, at_ms, max(at_ms, end_ms), "pause", "wait", pause, text,
                      is_open=again_ms > end_ms)  # fmt: skip
            self._again_ms[name] = again_ms

    def _begun(self, name: str) -> float | None:
        """When a request began that has ended now; None: no fact says it."""
        again_ms = self._again_ms.pop(name, None)
        return self._begun_ms.pop(name, again_ms)

    def _passed(self, at_ms: int, fact: StepPassed) -> None:
        name = f"@{fact.position}"
        begun_ms = self._begun(name)
        self._done.add(name)
        if fact.position in self._waits:
            begin_ms = self._waits.pop(fact.position)
            length = duration(max(0, at_ms - begin_ms))
            self._bar(name, begin_ms, at_ms, "wait", "quiet", length, f"a WAIT of {length}")
        elif fact.reply is UNSET:
            begin_ms = self._last_ms if begun_ms is None else begun_ms
            self._bar(name, min(begin_ms, at_ms), at_ms, "call", "ok", "", "done")

    def _queue(self, name: str, begin_ms: float, begun_ms: float | None) -> None:
        """The wait of a request for its turn, if it is known: for a limit of its component."""
        if self._is_one_by_one and begun_ms is None and begin_ms - self._last_ms >= QUEUE_MS:
            text = f"waited {duration(begin_ms - self._last_ms)} before it was sent"
            self._bar(name, self._last_ms, begin_ms, "queue", "quiet", "", text)

    def _bar(
        self, lane: str, begin_ms: float, end_ms: float, kind: str, tone: str, label: str,
        text: str, *, is_open: bool = False,
    ) -> None:  # fmt: skip
        bar = Bar(begin_ms, max(begin_ms, end_ms), kind, tone, label, text, is_open)
        self.by_lane.setdefault(lane, []).append(bar)


def _name_of(fact: Finished | ElementFinished | StepUndone) -> str:
    if isinstance(fact, StepUndone):
        return undo_request_name(fact.step)
    return f"{fact.step}.{fact.element}" if isinstance(fact, ElementFinished) else str(fact.step)


def _lane_of(name: str) -> str:
    """The lane of a request: an element of a FOREACH is on the lane of its step."""
    return name if name.startswith(("undo.", "@")) else name.partition(".")[0]

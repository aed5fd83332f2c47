"""The part of a run that the model keeps. Facts change it as they change a real run."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import Accepted, AnyFact, Offered, Placed, Received
from fractal_rm.domain.flow import Call, Flow, Method, definition_digest
from fractal_rm.domain.handoff.moving import can_move
from fractal_rm.domain.progress import Progress
from fractal_rm.domain.run import Run
from fractal_rm.domain.run_id import is_continuation
from fractal_rm.domain.state import Placement, State

FIRST_ID = "01JD0000000000000000000000"
# One call of a component that must not be called twice: the start of the call is on the disk first.
FLOW = Flow("1", steps=(Call(1, "arm", "move", Method.POST),))
DIGEST = definition_digest(FLOW, {FLOW.id: FLOW})
_REQUEST_NAME = "1"


class RunView(NamedTuple):
    """A run of the model. See `domain.run.Run` for the fields.

    ``has_begun``: its call has been started. ``maybe_twice``: it is executed although another node
    may execute it, too, and the run says so.
    """

    home: str
    state: State = State.NEW
    placement: Placement = Placement.NOT_YET
    node: str | None = None
    offered: Offered | None = None
    sender: str | None = None
    is_returned: bool = False
    has_begun: bool = False
    maybe_twice: bool = False

    @property
    def epoch(self) -> int:
        """The epoch of the last offer; 0 if the run was not offered."""
        return 0 if self.offered is None else self.offered.epoch


@cache
def after(view: RunView, run_id: str, fact: AnyFact) -> RunView:
    """The run after a fact."""
    run = as_run(view, run_id)
    run.apply(fact)
    return _view(run, view.home, maybe_twice=view.maybe_twice or _says_maybe_twice(fact))


@cache
def accepted(home: str, run_id: str, sender: str | None = None, epoch: int = 0) -> RunView:
    """A new run: of a trigger, or of an offer of ``sender``."""
    run = Run(run_id, FLOW, 0)
    run.apply(Accepted("1", "", msgspec.Raw(b"null"), "peer", placed=sender is not None, node=home))
    if sender is not None:
        run.apply(Received(sender, epoch))
    return _view(run, home, maybe_twice=False)


@cache
def may_move(view: RunView, run_id: str) -> bool:
    """Whether a drained node may offer the run to another node: `domain.handoff.moving`."""
    return can_move(as_run(view, run_id))


def as_run(view: RunView, run_id: str) -> Run:
    """The run as the real functions need it."""
    first = Accepted(
        "1", "", msgspec.Raw(b"null"), "trigger" if view.sender is None else "peer", node=view.home
    )
    return Run(
        run_id,
        FLOW,
        0,
        first,
        state=view.state,
        placement=view.placement,
        node=view.node,
        offered=view.offered,
        sender=view.sender,
        progress=Progress(in_doubt={_REQUEST_NAME} if view.has_begun else None),
    )


def _view(run: Run, home: str, *, maybe_twice: bool) -> RunView:
    return RunView(
        home,
        run.state,
        run.placement,
        run.node,
        run.offered,
        run.sender,
        is_continuation(run.id),
        bool(run.progress.in_doubt),
        maybe_twice,
    )


def _says_maybe_twice(fact: AnyFact) -> bool:
    return isinstance(fact, Placed) and fact.maybe_twice is not UNSET

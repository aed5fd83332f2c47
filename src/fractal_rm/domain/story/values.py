"""What a story is made from, and the story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.state import State


class ComponentNote(msgspec.Struct, frozen=True):
    """What the configuration says about a component now.

    ``urls`` has the address of each endpoint. ``limit``: the maximum number of calls in flight.
    """

    urls: Mapping[str, str] = {}
    limit: int | None = None
    idempotent: bool = True


class NodeNote(msgspec.Struct, frozen=True):
    """What is known about the node now.

    ``is_running``: whether a process has the journal of the run open; None: not known. ``status``
    is what that process says; None if it was not asked, or did not answer. ``components`` is None
    if the configuration cannot be read.
    """

    is_running: bool | None = None
    status: NodeStatus | None = None
    paused: bool = False
    draining: bool = False
    components: Mapping[str, ComponentNote] | None = None


class Child(msgspec.Struct, frozen=True):
    """A run of flow ``flow`` that a RUN step has started."""

    run: str
    state: State
    flow: str


class RunToTell(msgspec.Struct, frozen=True):
    """A run, as far as it is known. Times are wall times in milliseconds since 1970, UTC.

    ``facts`` has the time of each fact, and the fact; empty if they were deleted because of their
    age. ``flow`` is the definition with which the run began, or None. ``flow_changed``: whether
    flows.conf has another definition now; None: not known. ``current`` is the definition that
    flows.conf has now, or None. ``repeated_by`` has the ids of the runs that repeat this one.
    ``unreadable`` says why facts are missing, if they are. ``now_ms`` is the time now.

    ``clock`` writes a time for people. ``show_values``: the story may quote results and messages.
    """

    id: str
    flow_id: str | None
    state: State
    reason: str
    source: str
    journal: str
    accepted_ms: int
    settled_ms: int | None
    now_ms: int
    clock: Callable[[int], str]
    node: str | None = None
    facts: Sequence[tuple[int, AnyFact]] = ()
    flow: Flow | None = None
    flow_changed: bool | None = None
    current: Flow | None = None
    here: NodeNote = NodeNote()
    children: Sequence[Child] = ()
    repeated_by: Sequence[str] = ()
    show_values: bool = True
    unreadable: str = ""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened at ``at_ms``. ``step`` is the number of the step, if it was a step.

    ``is_problem``: something went wrong.
    """

    at_ms: int
    text: str
    step: int | None = None
    is_problem: bool = False


class Advice(msgspec.Struct, frozen=True):
    """Something that can be done: ``text`` says what it does, and ``words`` are the command.

    The first word of the command is the name of the program's command, such as ``runs``. If there
    are no words, it is something that the program cannot do. ``file`` is the file of the
    configuration that is to be changed, and ``line`` the line when the run began, if it is known.
    """

    text: str
    words: tuple[str, ...] = ()
    file: str = ""
    line: int | None = None

    @property
    def command(self) -> str:
        """The command as it is typed; empty if there is none."""
        return " ".join(("fractal-rm", *self.words)) if self.words else ""


class Story(msgspec.Struct, frozen=True):
    """The story of a run. ``why`` says in one to three sentences why the run is as it is.

    ``is_trouble``: somebody should look at the run. ``left_out``: how many events in the middle are
    left out because there are too many.
    """

    run: str
    flow: str | None
    state: State
    why: str
    is_trouble: bool
    events: list[Event]
    advice: list[Advice]
    left_out: int = 0

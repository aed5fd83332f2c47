"""Replay, DecideStep and Send: repeat a run or a dead letter as a new run, once.

The new run has a key. Without ``again``, the key names the original, so a second request finds the
run that the first one has made: also after a crash, and if both are asked at the same time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Union

import msgspec
from msgspec import UNSET

from fractal_rm.domain.actions import (
    ActionDone,
    ActionRequest,
    AlreadyHandled,
    AtOtherNode,
    CannotActNow,
    DecideStep,
    Definition,
    NoLongerKept,
    NotPossible,
    Replay,
    Send,
    WrongState,
)
from fractal_rm.domain.dead_letter import decode_letter
from fractal_rm.domain.facts import Accepted, AnyFact, Dead
from fractal_rm.domain.flow import Flow, without_lines
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.refusals import Busy, Refused
from fractal_rm.domain.repeating import Progress, progress_after_decision, progress_before
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Trigger
from fractal_rm.domain.wall_time import utc_text
from fractal_rm.engine.accept import DEAD_LETTER_BYTES
from fractal_rm.engine.actions.past_runs import PastRun, PastRunReader
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports import ExistingRun
from fractal_rm.engine.ports.history import Handled

Repeat = Union[Replay, DecideStep, Send]
_WITH_AGAIN = "; to repeat it anyway, use --again (in the HTTP API: `again`)"


class _NewRun(msgspec.Struct, frozen=True):
    """What a new run begins with."""

    flow: Flow
    accepted: Accepted
    progress: Sequence[AnyFact] = ()


class RepeatRuns:
    """Makes new runs from ended runs and dead letters of the state folder."""

    def __init__(
        self, dependencies: Dependencies, lifecycle: Lifecycle, past_runs: PastRunReader
    ) -> None:
        self._dependencies = dependencies
        self._lifecycle = lifecycle
        self._past_runs = past_runs

    async def repeat(self, action: Repeat, request: ActionRequest) -> ActionDone:
        """Make a durable run. Raises ActionRefused."""
        key, digest = _key_of(action, request)
        earlier = await self._find(key)
        if earlier is not None:
            return self._done_before(action.run, earlier, digest)
        detail = await self._past_runs.detail(action.run)
        if not detail.summary.state.final:
            state = detail.summary.state
            raise WrongState(
                f"run {action.run} has not ended: it is {state.value}", run=action.run, state=state
            )
        if not action.again and (handled := await self._past_runs.handled(action.run)) is not None:
            raise already_handled(action.run, detail.summary.state, handled, _WITH_AGAIN)
        past = await self._past_runs.complete(detail)
        if isinstance(action, Send):
            new = await self._from_dead_letter(past, action, request)
        elif isinstance(action, Replay):
            new = self._replayed(past, action, request)
        else:
            new = self._decided(past, action, request)
        self._check_may_begin()
        try:
            made = await self._lifecycle.new_runs.repeat(
                new.flow, new.accepted, new.progress, key, digest
            )
        except Busy as busy:
            raise CannotActNow(f"the queue is full: {busy.reason}") from busy
        except JournalBlocked as blocked:
            raise CannotActNow(f"the journal cannot be written: {blocked.why}") from blocked
        if isinstance(made, ExistingRun):
            return self._done_before(action.run, made, digest)
        return ActionDone(
            action.run, past.run.state, new_run=made.id, flow_changed=self._has_changed(new, action)
        )

    def _has_changed(self, new: _NewRun, action: Repeat) -> bool:
        """Whether a replay uses a definition that flows.conf no longer has."""
        if not isinstance(action, Replay) or action.definition is Definition.CURRENT:
            return False
        current = self._dependencies.config.flows.get(new.flow.id)
        return current is None or without_lines(current) != without_lines(new.flow)

    async def _find(self, key: str) -> ExistingRun | None:
        """The run that the same request, or another one for the same original, has made."""
        retention_ms = self._dependencies.clock.read().retention_ms
        try:
            return await self._dependencies.journal.find(key, retention_ms)
        except JournalBlocked as blocked:
            raise CannotActNow(f"the journal cannot be read: {blocked.why}") from blocked

    def _done_before(self, run_id: str, earlier: ExistingRun, digest: str) -> ActionDone:
        """The result of an earlier request, if it was the same. Raises AlreadyHandled."""
        if earlier.digest != digest:
            raise AlreadyHandled(
                f"run {run_id} was repeated before, as run {earlier.run_id}{_WITH_AGAIN}",
                run=run_id,
                new_run=earlier.run_id,
            )
        return ActionDone(run_id, new_run=earlier.run_id, repeated=True)

    def _check_may_begin(self) -> None:
        """Raise CannotActNow if this node accepts no runs."""
        condition = self._lifecycle.condition
        if condition.stopping or condition.draining:
            raise CannotActNow(
                "this node drains, so it accepts no runs: end the drain, or wait for its next start"
            )

    # --- what the new run begins with -----------------------------------------------------------

    def _replayed(self, past: PastRun, action: Replay, request: ActionRequest) -> _NewRun:
        """The same run again. Raises ActionRefused."""
        first = _accepted_of(past)
        current = self._dependencies.config.flows.get(past.run.flow.id)
        flow = _recorded_of(past) if action.definition is Definition.RECORDED else current
        if flow is None:
            raise NotPossible(
                f"flows.conf no longer has flow {past.run.flow.id}; use the flow as it was then",
                run=past.run.id,
            )
        progress = Progress()
        if action.from_step is not None:
            progress = progress_before(past.run, past.facts, past.recorded, flow, action.from_step)
        accepted = _accepted(past.run.id, flow, first.payload, request, progress.from_step)
        # Another node would use its own definition of the flow.
        placed = first.placed or flow != current
        return _NewRun(flow, msgspec.structs.replace(accepted, placed=placed), progress.facts)

    def _decided(self, past: PastRun, action: DecideStep, request: ActionRequest) -> _NewRun:
        """The rest of a run, after a decision about its step in doubt. Raises ActionRefused."""
        first, flow = _accepted_of(past), _recorded_of(past)
        result = action.result if action.done else None
        progress = progress_after_decision(past.run, past.facts, flow, result)
        accepted = _accepted(past.run.id, flow, first.payload, request, progress.from_step)
        return _NewRun(flow, msgspec.structs.replace(accepted, placed=True), progress.facts)

    async def _from_dead_letter(
        self, past: PastRun, action: Send, request: ActionRequest
    ) -> _NewRun:
        """The trigger in a dead letter, decoded as if it had just arrived. Raises ActionRefused."""
        letter = past.facts[0]
        if not isinstance(letter, Dead):
            raise WrongState(
                f"run {past.run.id} is not a dead letter; it can be repeated (replay)",
                run=past.run.id,
                state=past.run.state,
            )
        trigger = self._decoded(past.run.id, letter, _body_of(past.run.id, letter, action))
        if trigger.offer is not None:
            raise NotPossible(
                f"the message of {past.run.id} is an offer of node {trigger.offer.sender}, which"
                " has the run: repeat it there",
                run=past.run.id,
            )
        flow = self._dependencies.config.flows.get(trigger.flow_id)
        if flow is None:
            raise NotPossible(f"flows.conf has no flow {trigger.flow_id!r:.60}", run=past.run.id)
        if trigger.dedup_key is not None and not action.again:
            existing = await self._find(trigger.dedup_key)
            if existing is not None:
                raise AlreadyHandled(
                    f"another message with the same id has become run {existing.run_id}",
                    run=past.run.id,
                    new_run=existing.run_id,
                )
        accepted = _accepted(past.run.id, flow, msgspec.Raw(trigger.payload), request, None)
        return _NewRun(
            flow,
            msgspec.structs.replace(
                accepted,
                placed=trigger.placed,
                key=trigger.key,
                budget_ms=UNSET if trigger.budget_ms is None else trigger.budget_ms,
            ),
        )

    def _decoded(self, run_id: str, letter: Dead, body: bytes) -> Trigger:
        """Decode a message strictly, as its way in does. Raises NotPossible."""
        try:
            return decode_letter(letter, body, self._dependencies.config.bounds.max_trigger_bytes)
        except Refused as refusal:
            raise NotPossible(
                f"the message is not a trigger: {refusal.title}: {refusal.reason}", run=run_id
            ) from refusal


def already_handled(
    run_id: str, state: State, handled: Handled, way_out: str = ""
) -> AlreadyHandled:
    """The refusal for a run that an operator has repeated or discarded before."""
    who = handled.actor or "an operator"
    did = "discarded it" if handled.by_run is None else f"repeated it as run {handled.by_run}"
    return AlreadyHandled(
        f"{who} {did} at {utc_text(handled.at_ms)}{way_out}",
        run=run_id,
        state=state,
        new_run=handled.by_run,
    )


def _key_of(action: Repeat, request: ActionRequest) -> tuple[str, str]:
    """The key of the new run, and a digest by which the same request is recognized."""
    content = msgspec.json.encode((request.request_id, action))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    # Ids from senders cannot begin with NUL.
    name = f"action:{request.request_id}:{action.run}" if action.again else f"repeat:{action.run}"
    return f"\0{name}", digest


def _accepted(
    run_id: str, flow: Flow, payload: msgspec.Raw, request: ActionRequest, from_step: int | None
) -> Accepted:
    """The first fact of a run that repeats run ``run_id``."""
    return Accepted(
        flow.id,
        "",  # `NewRuns.repeat` sets the version
        payload,
        "replay",
        replays=run_id,
        from_step=UNSET if from_step is None else from_step,
        actor=request.actor,
    )


def _accepted_of(past: PastRun) -> Accepted:
    """The first fact of an ended run that can be repeated. Raises ActionRefused."""
    run, first = past.run, past.facts[0]
    if not isinstance(first, Accepted):
        raise WrongState(
            f"{run.id} is a dead letter, so no run can be repeated; its message can be sent",
            run=run.id,
            state=run.state,
        )
    if run.state is State.HANDED_OFF:
        raise AtOtherNode(
            f"node {run.node} has run {run.id}: repeat it there", run=run.id, state=run.state,
            node=run.node,
        )  # fmt: skip
    if first.omitted is not UNSET:
        raise NoLongerKept(
            f"the payload of run {run.id} is not kept (KEEP or MASK of its flow)", run=run.id
        )
    return first


def _recorded_of(past: PastRun) -> Flow:
    """The definition with which a run began. Raises NoLongerKept."""
    if past.recorded is None:
        raise NoLongerKept(
            f"the definition of flow {past.run.flow.id} with which run {past.run.id} began is not"
            " kept; use the current one",
            run=past.run.id,
        )
    return past.recorded


def _body_of(run_id: str, letter: Dead, action: Send) -> bytes:
    """The message to send. Raises NoLongerKept."""
    if action.body is not None:
        return action.body
    if len(letter.body) >= DEAD_LETTER_BYTES:
        raise NoLongerKept(
            f"the message of {run_id} was too long: only its first {DEAD_LETTER_BYTES} bytes are"
            " kept. Give the whole message",
            run=run_id,
        )
    if not letter.body:
        raise NoLongerKept(f"no message of {run_id} is kept. Give the message", run=run_id)
    return letter.body

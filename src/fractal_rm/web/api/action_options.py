"""The options of actions on one run, as requests of the API and forms of pages have them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fractal_rm.domain.actions import Cancel, Definition, Discard, Replay, Send
from fractal_rm.domain.refusals import WrongShape

MAX_NOTE = 2_000  # characters
MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # of an edited message, with its JSON around it
StepNumber = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Note = Annotated[str, msgspec.Meta(max_length=MAX_NOTE)]


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an action without options: nothing, or an empty object."""


class CancelOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``cut``: do not await the step in flight. ``undo``: undo the finished steps."""

    cut: bool = False
    undo: bool = True

    def to_action(self, run_id: str) -> Cancel:
        """The action on a run."""
        return Cancel(run_id, self.cut, self.undo)


class ReplayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See `domain.actions.Replay`."""

    definition: Definition = Definition.RECORDED
    from_step: StepNumber | None = None
    again: bool = False

    def to_action(self, run_id: str) -> Replay:
        """The action on a run."""
        return Replay(run_id, self.definition, self.from_step, self.again)


class SendOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``body``: send this text instead of the stored message; ``base64``: these bytes."""

    body: str | None = None
    base64: bytes | None = None
    again: bool = False

    def to_action(self, run_id: str) -> Send:
        """The action on a dead letter. Raises WrongShape."""
        if self.body is not None and self.base64 is not None:
            raise WrongShape("give body or base64, not both")
        body = self.base64 if self.body is None else self.body.encode()
        return Send(run_id, body, self.again)


class DiscardOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``note``: why, for people who read the history."""

    note: Note = ""

    def to_action(self, run_id: str) -> Discard:
        """The action on a run or a dead letter."""
        return Discard(run_id, self.note)

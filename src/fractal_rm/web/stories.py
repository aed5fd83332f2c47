"""Tells the stories of runs for clients: what happened, why it is so, and what can be done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from fractal_rm.config.model import Config
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.story import NodeNote, RunToTell, Story, tell
from fractal_rm.engine.ports import Clock, RunDetail, RunSummary
from fractal_rm.engine.story_of import note_of, run_to_tell, version_in


class Stories:
    """Makes stories from the facts of runs and the configuration in force.

    ``definition`` returns the flow of a version from the journal with a name, or None; it reads the
    disk.
    """

    def __init__(
        self,
        definition: Callable[[str, str], Flow | None],
        config: Callable[[], Config],
        clock: Clock,
    ) -> None:
        self._definition = definition
        self._config = config
        self._clock = clock

    def story(
        self,
        detail: RunDetail,
        children: Sequence[RunSummary],
        repeated_by: Sequence[RunSummary],
        *,
        shows_values: bool,
    ) -> Story:
        """The story of a run. ``shows_values``: it may quote results and messages."""
        return tell(self.told(detail, children, repeated_by, shows_values=shows_values))

    def told(
        self,
        detail: RunDetail,
        children: Sequence[RunSummary],
        repeated_by: Sequence[RunSummary],
        *,
        shows_values: bool,
        here: NodeNote | None = None,
        clock: Callable[[int], str] | None = None,
    ) -> RunToTell:
        """A run for its story. ``here``: what is known about the node, if more than its files.

        ``clock`` writes a time for people; by default in UTC, with the day.
        """
        version, config = version_in(detail), self._config()
        return run_to_tell(
            detail,
            now_ms=self._clock.now_ms(),
            clock=clock or utc_text,
            flow=None if version is None else self._flow(detail.summary.journal, version),
            current=config.flows,
            here=note_of(config) if here is None else here,
            children=children,
            repeated_by=[each.id for each in repeated_by],
            show_values=shows_values,
        )

    def _flow(self, journal: str, version: str) -> Flow | None:
        try:
            return self._definition(journal, version)
        except JournalError:
            return None  # the story is told without the names of the steps


def utc_text(at_ms: int) -> str:
    """A wall time as text: ``2026-11-29 14:02:11.348Z``."""
    try:
        moment = datetime.fromtimestamp(at_ms / 1000, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{at_ms % 1000:03d}Z"

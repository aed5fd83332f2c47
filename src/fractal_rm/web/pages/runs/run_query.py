"""The conditions of the list of runs, as people write them in its form and in its address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Annotated
from urllib.parse import urlencode

import msgspec

from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.flowlang.duration import DURATION_HINT, duration_ms
from fractal_rm.web.api.filters import Cursor, Duration, Name, TimeText, time_of
from fractal_rm.web.api.query import BadParameter
from fractal_rm.web.pages.frame.text_filters import Zone

RANGES = (("15m", "15 minutes"), ("1h", "hour"), ("6h", "6 hours"), ("24h", "24 hours"),
          ("7d", "7 days"))  # fmt: skip
# Groups of states, which may stand where a state may stand.
GROUPS: Mapping[str, tuple[State, ...]] = {
    "trouble": tuple(sorted(TROUBLE_STATES)),
    "open": tuple(state for state in State if not state.final and state is not State.NEW),
    "ended": tuple(state for state in State if state.final),
}
SLOW = "1s"
MAX_TRAIL = 20  # earlier parts of a list to which one can go back
FIRST = "0"  # the first part of a list, in the trail


class RunsPageQuery(msgspec.Struct, frozen=True):
    """The parameters of the page. They are those of ``/v1/runs``, and some in words.

    ``state``: states, or `GROUPS`. ``slower`` is a length of time, such as ``1s``. ``from`` and
    ``until`` may also be times without a zone: then they are in the zone of the page. ``newer`` has
    the cursors of the parts of the list before this one, the first one first, with dots between.
    ``after``: the newest run that is shown, to ask whether there are newer ones.
    """

    flow: Name | None = None
    state: Annotated[tuple[Name, ...], msgspec.Meta(max_length=20)] = ()
    component: Name | None = None
    cause: Name | None = None
    node: Name | None = None
    source: Name | None = None
    since: TimeText | None = None
    from_: TimeText | None = msgspec.field(default=None, name="from")
    until: TimeText | None = None
    text: Name | None = None
    handled: bool | None = None
    slower: Name | None = None
    slower_ms: Duration | None = None
    cursor: Cursor | None = None
    after: Name | None = None
    newer: Annotated[str, msgspec.Meta(max_length=8_000)] = ""

    @property
    def conditions(self) -> dict[str, str]:
        """The conditions as parameters of an address, without those that are not set."""
        values = {
            "flow": self.flow, "state": ",".join(self.state) or None, "component": self.component,
            "cause": self.cause, "node": self.node, "source": self.source, "since": self.since,
            "from": self.from_, "until": self.until, "text": self.text, "slower": self.slower,
            "handled": None if self.handled is None else str(self.handled).lower(),
            "slower_ms": None if self.slower_ms is None else str(self.slower_ms),
        }  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}

    @property
    def address(self) -> str:
        """The query of the first part of this list, with its question mark."""
        return address_of(self.conditions)

    def older(self, cursor: str) -> str:
        """The query of the part that follows, which begins at ``cursor``."""
        trail = [*self.trail, self.cursor or FIRST][-MAX_TRAIL:]
        return address_of({**self.conditions, "cursor": cursor, "newer": ".".join(trail)})

    def go_on(self, cursor: str) -> str:
        """The query of a search that goes on without having found enough."""
        return address_of({**self.conditions, "cursor": cursor, "newer": self.newer})

    @property
    def previous(self) -> str | None:
        """The query of the part before this one; None: this is the first part."""
        if self.cursor is None:
            return None
        if not self.trail or self.trail[-1] == FIRST:
            return self.address
        more = {"cursor": self.trail[-1], "newer": ".".join(self.trail[:-1])}
        return address_of({**self.conditions, **more})

    @property
    def trail(self) -> list[str]:
        """The cursors of the parts before this one."""
        return self.newer.split(".") if self.newer else []


def address_of(parameters: Mapping[str, str]) -> str:
    """A query with its question mark; empty if there are no parameters."""
    kept = {name: value for name, value in parameters.items() if value}
    return f"?{urlencode(kept)}" if kept else ""


def filter_of_page(query: RunsPageQuery, now_ms: int, zone: Zone) -> RunFilter:
    """The filter for the conditions of the page. Raises BadParameter."""
    since = [_time("since", query.since, now_ms, zone), _time("from", query.from_, now_ms, zone)]
    given = [at_ms for at_ms in since if at_ms is not None]
    return RunFilter(
        flow=query.flow,
        states=_states(query.state),
        component=query.component,
        cause=query.cause,
        node=query.node,
        source=query.source,
        since_ms=max(given, default=None),
        until_ms=_time("until", query.until, now_ms, zone),
        text=query.text,
        handled=query.handled,
        slower_ms=query.slower_ms if query.slower is None else _slower_ms(query.slower),
    )


def _states(names: tuple[str, ...]) -> tuple[State, ...] | None:
    found: dict[State, None] = {}
    for name in names:
        group = GROUPS.get(name) or tuple(state for state in State if state.text == name)
        if not group:
            known = ", ".join([*GROUPS, *(state.text for state in State)])
            raise BadParameter(f"state: there is no {name[:40]!r}; there are {known}")
        found.update(dict.fromkeys(group))
    return tuple(found) or None


def _slower_ms(text: str) -> int:
    ms = duration_ms(text)
    if ms is None:
        raise BadParameter(f"slower: write {DURATION_HINT}")
    return ms


def _time(name: str, text: str | None, now_ms: int, zone: Zone) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return time_of(name, text, now_ms)
    if moment.tzinfo is not None or len(text) < len("2026-11-29T14:02"):
        return time_of(name, text, now_ms)
    in_zone = moment.replace(tzinfo=timezone.utc) if zone is Zone.UTC else moment.astimezone()
    return time_of(name, in_zone.astimezone(timezone.utc).isoformat(), now_ms)


def words_of(run_filter: RunFilter, clock: Callable[[int], str]) -> str:
    """The conditions in words: ``runs of flow 2 in trouble, accepted since 14:02:11``."""
    return " ".join(["runs", *_words(run_filter, clock)])


def _words(wanted: RunFilter, clock: Callable[[int], str]) -> Iterator[str]:
    if wanted.states is not None:
        group = next((name for name, of in GROUPS.items() if of == wanted.states), "")
        states = " or ".join(state.text for state in wanted.states)
        yield _GROUP_WORDS.get(group, f"that are {states}")
    for name, words in _CONDITIONS.items():
        value = getattr(wanted, name)
        if value is not None:
            yield words.format(value)
    if wanted.handled is not None:
        yield "that an operator has handled" if wanted.handled else "that no operator has handled"
    if wanted.since_ms is not None:
        yield f"accepted since {clock(wanted.since_ms)}"
    if wanted.until_ms is not None:
        yield f"accepted before {clock(wanted.until_ms)}"


_CONDITIONS = {
    "flow": "of flow {}",
    "component": "in trouble that called {} last",
    "cause": "with the cause {}",
    "node": "with the node {}",
    "source": "from {}",
    "text": 'in trouble whose reason contains "{}"',
    "slower_ms": "that took {:,} ms or more",
}
_GROUP_WORDS = {"trouble": "in trouble", "open": "that are open", "ended": "that have ended"}

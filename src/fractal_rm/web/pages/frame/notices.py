"""What a page says after a form: one of a fixed set, named by the query parameter ``notice``.

The text is never taken from the query, so no link can make a page say something.
"""

from __future__ import annotations

from enum import Enum
from urllib.parse import parse_qs

import msgspec

PARAMETER = "notice"


class Notice(Enum):
    """What was done."""

    CANCELLED = "cancelled"
    CANCELLING = "cancelling"
    REPLAYED = "replayed"
    REPLAYED_OLD_FLOW = "replayed-old-flow"
    RELEASED = "released"
    DISCARDED = "discarded"
    DECIDED = "decided"
    GOES_ON = "goes-on"
    SENT = "sent"
    MANY_BEGUN = "many-begun"
    STOPPED = "stopped"
    FLOW_PAUSED = "flow-paused"
    FLOW_RESUMED = "flow-resumed"
    STARTED = "started"
    STARTED_BEFORE = "started-before"
    ENDED_BEFORE = "ended-before"
    SIGNED_OUT = "signed-out"


_TEXTS = {
    Notice.CANCELLED: "The run is cancelled.",
    Notice.CANCELLING: "The run was asked to end. It ends after its current step.",
    Notice.REPLAYED: "This is the new run. The run that it repeats stays as it was.",
    Notice.REPLAYED_OLD_FLOW: "This is the new run. Its flow has changed in flows.conf since; the"
    " new run uses the flow as it was.",
    Notice.RELEASED: "The run is released, and goes on.",
    Notice.DISCARDED: "It is marked as discarded: it needs no more attention.",
    Notice.DECIDED: "Your decision is recorded.",
    Notice.GOES_ON: "Your decision is recorded. This new run goes on after it.",
    Notice.SENT: "The message was sent, and this is its run. The dead letter stays as it was.",
    Notice.MANY_BEGUN: "It has begun.",
    Notice.FLOW_PAUSED: "The flow is paused: no run of it begins.",
    Notice.FLOW_RESUMED: "The flow is resumed: its runs begin again.",
    Notice.STARTED: "The run is started. This page follows it to its end.",
    Notice.STARTED_BEFORE: "This run was started before, by the same form. No second run was"
    " started.",
    Notice.STOPPED: "It is stopped. What was done before stays done.",
    Notice.SIGNED_OUT: "You are signed out.",
    Notice.ENDED_BEFORE: "It had ended before, so nothing was stopped.",
}


class ShownNotice(msgspec.Struct, frozen=True):
    """What a page says."""

    text: str
    tone: str = "ok"


def notice_in(query: str) -> ShownNotice | None:
    """The notice that the query of a page names; None for every other text."""
    if PARAMETER not in query:
        return None
    named = parse_qs(query).get(PARAMETER, [""])[-1]
    known = {each.value: each for each in Notice}.get(named)
    if known is None:
        return None
    tone = "wait" if known in (Notice.CANCELLING, Notice.STARTED_BEFORE) else "ok"
    return ShownNotice(_TEXTS[known], tone)


def without_notice(query: str) -> str:
    """The query of a page without its notice, for links back to the page."""
    parts = [part for part in query.split("&") if part.partition("=")[0] != PARAMETER]
    return "&".join(parts)

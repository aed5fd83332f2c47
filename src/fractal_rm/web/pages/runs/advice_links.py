"""Where a page does what an advice of a story says: the advice itself names commands."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

import msgspec

from fractal_rm.domain.actions import Definition
from fractal_rm.domain.possible_actions import Offer
from fractal_rm.domain.story import Advice

_PAGES = {"nodes": "nodes", "components": "components", "config": "config", "check": "config"}
_ON_RUNS = {"cancel": Offer.CANCEL, "discard": Offer.DISCARD}
_ON_LETTERS = {"send": Offer.SEND, "discard": Offer.DISCARD}


class ShownAdvice(msgspec.Struct, frozen=True):
    """An advice on a page. ``path`` is relative to the root; empty: the page has no link for it.

    ``command`` is what can be typed instead; empty if there is a link.
    """

    text: str
    path: str
    command: str


def shown_advice(
    advice: Sequence[Advice], *, may_operate: bool, may_edit: bool
) -> list[ShownAdvice]:
    """The advice of a story for a page.

    Without ``may_operate``, actions have no links. Without ``may_edit``, files are only shown.
    """
    found: list[ShownAdvice] = []
    for each in advice:
        if each.words[:2] == ("runs", "wait"):
            continue  # the page itself shows the end
        path = _file_path(each, may_edit=may_edit) or look_path(each.words)
        path = path or (act_path(each.words) if may_operate else "")
        found.append(ShownAdvice(each.text, path, "" if path else each.command))
    return found


def _file_path(advice: Advice, *, may_edit: bool) -> str:
    """The line of the file that is to be changed; empty: none is."""
    if not advice.file:
        return ""
    line = f"#L{advice.line}" if advice.line else ""
    return f"config/{'edit' if may_edit else 'files'}/{advice.file}{line}"


def look_path(words: Sequence[str]) -> str:
    """The page that shows what a command shows; empty: none."""
    match tuple(words):
        case ("runs", "why", run):
            return f"runs/{run}"
        case ("runs", "show", run):
            return f"runs/{run}#values"
        case ("dead", "show", letter):
            return f"dead/{letter}"
        case ("flows", "show", flow):
            return f"flows/{flow}"
        case (word,) | (word, "history") if word in _PAGES:
            return _PAGES[word]
        case _:
            return ""


def act_path(words: Sequence[str]) -> str:  # noqa: PLR0911 - one for each command
    """The page that asks before it does what a command does; empty: none."""
    match tuple(words):
        case ("runs", "resolve", run, option, *_):
            is_step = option.startswith("--step")
            return f"runs/{run}/{(Offer.DECIDE_STEP if is_step else Offer.DECIDE_OFFER).value}"
        case ("runs", "replay", run, *options):
            return f"runs/{run}/{Offer.REPLAY.value}?{_replay_query(options)}"
        case ("runs", word, run, *_) if word in _ON_RUNS:
            return f"runs/{run}/{_ON_RUNS[word].value}"
        case ("resume", "--parked", run):
            return f"runs/{run}/{Offer.RELEASE.value}"
        case ("dead", "send", "--edit", letter):
            return f"dead/{letter}/{Offer.EDIT.value}"
        case ("dead", word, letter) if word in _ON_LETTERS:
            return f"dead/{letter}/{_ON_LETTERS[word].value}"
        case ("flows", "resume", flow):
            return f"flows/{flow}"
        case _:
            return ""


def _replay_query(options: Sequence[str]) -> str:
    """What the page chooses at first: the flow and the step of the command."""
    is_current = "--current-flow" in options
    query = {"definition": (Definition.CURRENT if is_current else Definition.RECORDED).value}
    if "--from-step" in options:
        query["from_step"] = options[options.index("--from-step") + 1]
    return urlencode(query)

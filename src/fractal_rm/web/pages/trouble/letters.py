"""The message of a dead letter: as a page shows it, as a person edits it, as it is checked."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from fractal_rm.domain.dead_letter import decode_letter
from fractal_rm.domain.facts import Dead
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.safe_text import ESCAPED
from fractal_rm.engine.accept import DEAD_LETTER_BYTES

MAX_SHOWN = 4096  # characters of a message on a page
MAX_EDITED = 512 * 1024  # bytes of a message that is edited on a page


class Message(msgspec.Struct, frozen=True):
    """A message. ``text`` is None if it is not text; ``is_cut``: the page shows its beginning.

    ``is_whole``: all of it was kept. ``size`` is what was kept, in bytes.
    """

    size: int
    text: str | None
    is_cut: bool
    is_whole: bool


def message_of(letter: Dead) -> Message:
    """The message of a dead letter."""
    text = _text(letter.body)
    is_cut = text is not None and len(text) > MAX_SHOWN
    return Message(
        len(letter.body),
        text[:MAX_SHOWN] if text is not None else None,
        is_cut,
        len(letter.body) < DEAD_LETTER_BYTES,
    )


def editable(body: bytes) -> str | None:
    r"""The message for an input field; None if it is not text.

    Characters that nobody can see are written as JSON writes them, such as ``\u202e``.
    """
    text = _text(body)
    return None if text is None else "".join(map(_visible, text))


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        # The end of a long message may be in the middle of a character.
        if len(body) < DEAD_LETTER_BYTES:
            return None
    try:
        return body[:-3].decode() + body[-3:].decode(errors="ignore")
    except UnicodeDecodeError:
        return None


def _visible(character: str) -> str:
    if character in "\r\n\t" or unicodedata.category(character) not in ESCAPED:
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    pairs = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
    return "".join(f"\\u{pair}" for pair in pairs)


class Checked(msgspec.Struct, frozen=True):
    """Whether a message would be accepted: a title and what to know."""

    is_ok: bool
    title: str
    text: str = ""


def check_message(
    letter: Dead, body: bytes, flows: Mapping[str, Flow], max_trigger_bytes: int
) -> Checked:
    """Say whether a message would become a run, if it were sent the way of a dead letter."""
    try:
        trigger = decode_letter(letter, body, max_trigger_bytes)
    except Refused as refusal:
        return Checked(False, refusal.title, refusal.reason)
    if trigger.offer is not None:
        why = "Repeat the run on the node that has offered it."
        return Checked(False, "It is the offer of another node", why)
    if trigger.flow_id not in flows:
        known = ", ".join(list(flows)[:20]) or "none"
        text = f"It names flow {trigger.flow_id[:60]!r}; flows.conf has {known}."
        return Checked(False, "There is no such flow", text)
    where = "" if letter.flow_id is UNSET else ", which its topic or address names"
    return Checked(True, "It would be accepted", f"It starts flow {trigger.flow_id}{where}.")

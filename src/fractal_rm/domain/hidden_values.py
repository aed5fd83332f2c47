"""Facts without payloads, results and replies, for readers that lack the scope ``payload``."""

from __future__ import annotations

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    ElementFinished,
    Finished,
    StepFailed,
    StepPassed,
)

HIDDEN = msgspec.Raw(b'"(hidden)"')


def hide_values(fact: AnyFact) -> AnyFact:  # noqa: PLR0911 - one for each kind of fact
    """The same fact with `HIDDEN` in place of values that senders and components sent."""
    match fact:
        case Accepted():
            return replace(fact, payload=HIDDEN)
        case Finished():
            return replace(fact, result=HIDDEN, data=UNSET, headers=UNSET)
        case ElementFinished():
            return replace(fact, result=HIDDEN, data=UNSET)
        case StepFailed():
            return replace(fact, answer=UNSET)
        case StepPassed():
            return fact if fact.reply is UNSET else replace(fact, reply=HIDDEN, data=UNSET)
        case Dead():
            return replace(fact, body=b"")
        case _:
            return fact

"""What a reply or a failure means for a step. Plain functions."""

from __future__ import annotations

from fractal_rm.domain.call import Reply
from fractal_rm.domain.errors import CallFailed

CONNECT_TRIES = 3


def failure_of(answer: Reply | CallFailed) -> str | None:
    """Why an answer fails its step, or None. 400 and above do (as the flow language says)."""
    if isinstance(answer, CallFailed):
        return answer.reason
    if answer.status < 400:
        return None
    said = " ".join(answer.body[:200].decode("utf-8", "replace").split())
    return f"status {answer.status}" + (f": {said}" if said else "")


def call_again_s(answer: Reply | CallFailed, tries: int, fraction: float) -> float | None:
    """After how many seconds a failed call is made again; None: no more.

    Only what was never sent is: nothing has happened yet. ``tries`` counts from 1, ``fraction`` is
    the jitter from 0 to 1.
    """
    if isinstance(answer, Reply) or answer.sent or tries >= CONNECT_TRIES:
        return None
    return 0.1 * 3 ** (tries - 1) * (0.5 + fraction / 2)

"""What a reply or a failure means for a step. Plain functions."""

from __future__ import annotations

CONNECT_TRIES = 3


def reply_failure(status: int, body: bytes) -> str | None:
    """Why a reply fails its step, or None. 400 and above do (as the flow language says)."""
    if status < 400:
        return None
    said = " ".join(body[:200].decode("utf-8", "replace").split())
    return f"status {status}" + (f": {said}" if said else "")


def connect_again_s(tries: int, fraction: float) -> float | None:
    """After how many seconds a call that was never sent is tried again; None: no more.

    ``tries`` counts from 1, ``fraction`` is the jitter from 0 to 1.
    """
    if tries >= CONNECT_TRIES:
        return None
    return 0.1 * 3 ** (tries - 1) * (0.5 + fraction / 2)

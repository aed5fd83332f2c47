"""What a node says about itself when another machine asks it."""

from __future__ import annotations

import msgspec

KIND = "fractal-rm"
PROTOCOL = 2  # the version of the hand-off protocol (`domain.handoff`)


class NodeDescription(msgspec.Struct, frozen=True):
    """What a node of this program answers to ``GET <rest.endpoint>``.

    ``node`` is the id of the node, ``store`` the id of its state folder, and ``boot`` the id of
    this start of the node. ``in_flight`` and ``waiting`` are numbers of runs. ``time_ms`` is its
    wall time, in milliseconds since 1970.
    """

    kind: str
    version: str
    protocol: int
    node: str
    store: str
    boot: str
    draining: bool = False
    paused: bool = False
    in_flight: int = 0
    waiting: int = 0
    time_ms: int = 0

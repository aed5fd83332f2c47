"""The topics of live events."""

from __future__ import annotations

from enum import Enum


class Topic(str, Enum):
    """What a stream of live events is about.

    ``runs``: each run whose state has changed. ``failures``: those in trouble only. ``flows``: how
    many runs of each flow were accepted and ended. ``node``: what this process does now.
    """

    RUNS = "runs"
    FAILURES = "failures"
    FLOWS = "flows"
    NODE = "node"

    __hash__ = str.__hash__


ALL_TOPICS = tuple(Topic)

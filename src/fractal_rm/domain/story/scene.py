"""How far a story is told."""

from __future__ import annotations

from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import RunToTell


class Scene:
    """A run whose facts are told one after another.

    ``index`` is that of the next fact, and ``last_ms`` the time of the facts before.
    """

    def __init__(self, told: RunToTell, steps: Steps) -> None:
        self.told = told
        self.steps = steps
        self.last_ms = told.accepted_ms
        self.index = 0

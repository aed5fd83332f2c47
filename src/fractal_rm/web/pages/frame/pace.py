"""How often an open page reads itself again: less often while it takes the node long to make it."""

from __future__ import annotations

SHARE = 0.01  # of the time, at most, a page that is open in a browser is being made
MAX_EVERY_S = 10


class Pace:
    """Knows how long pages took. ``section`` is the first part of the path of a page."""

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}

    def every_s(self, section: str, wanted_s: int, took_s: float) -> int:
        """After how many seconds a page reads itself again, if it is wanted after ``wanted_s``.

        A busy node has other work, so a page that took long waits for longer. One time does not
        matter: the first page after a start always takes long.
        """
        usual_s = min(took_s, self._last_s.get(section, 0.0))
        self._last_s[section] = took_s
        return max(wanted_s, min(round(usual_s / SHARE), MAX_EVERY_S))

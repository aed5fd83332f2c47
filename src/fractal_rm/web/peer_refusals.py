"""Counts refused requests of other machines, and logs them at most once a minute per machine."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.engine.ports import Telemetry

LOG_INTERVAL_S = 60.0
MAX_PEERS = 256  # further machines in the same minute are counted and logged together as OTHERS
OTHERS = "others"


class PeerRefusals:
    """Counts and logs refusals; ``total`` counts all of them. ``now_s`` reads a monotonic clock."""

    def __init__(self, telemetry: Telemetry, now_s: Callable[[], float]) -> None:
        self.total = 0
        self._by_code: dict[str, int] = {}
        self._telemetry = telemetry
        self._now_s = now_s
        self._logged_s: dict[str, float] = {}
        self._not_logged: dict[str, int] = {}

    def codes_text(self) -> str:
        """How many refusals there were with each code, such as ``unauthenticated: 3``."""
        return ", ".join(f"{code}: {count}" for code, count in sorted(self._by_code.items()))

    def note(self, peer: str, request: str, reason: str, code: str = "invalid") -> None:
        """Count a refusal. Log it if no refusal of the peer was logged in the last minute.

        ``code`` is the end of the problem's type. A problem without its own type is ``invalid``.
        """
        self.total += 1
        self._by_code[code] = self._by_code.get(code, 0) + 1
        now_s = self._now_s()
        peer = self._logged_name(peer, now_s)
        requests = self._not_logged.pop(peer, 0) + 1
        if now_s - self._logged_s.get(peer, now_s - LOG_INTERVAL_S) < LOG_INTERVAL_S:
            self._not_logged[peer] = requests
            return
        self._logged_s[peer] = now_s
        self._telemetry.problem(
            "peer_refused",
            peer=peer,
            asked=request,
            why=reason,
            requests=requests,
            total=self.total,
        )

    def _logged_name(self, peer: str, now_s: float) -> str:
        """Return the name under which a peer is counted: OTHERS if there are too many peers."""
        if peer in self._logged_s:
            return peer
        if len(self._logged_s) >= MAX_PEERS:
            expired = [p for p, at_s in self._logged_s.items() if now_s - at_s >= LOG_INTERVAL_S]
            for each in expired:
                del self._logged_s[each]
                self._not_logged.pop(each, None)
        return peer if len(self._logged_s) < MAX_PEERS else OTHERS

"""What other machines were refused: counted, and said once a minute for each."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.engine.ports import Telemetry

SAY_AGAIN_S = 60.0
MOST_PEERS = 256  # what comes from more of them within a minute is said of all together
OTHERS = "others"


class PeerRefusals:
    """``now_s`` never jumps back. ``total`` counts since the start."""

    def __init__(self, telemetry: Telemetry, now_s: Callable[[], float]) -> None:
        self.total = 0
        self._telemetry = telemetry
        self._now_s = now_s
        self._said_s: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def note(self, peer: str, asked: str, why: str) -> None:
        """Count one, and say it unless that was done within the last minute."""
        self.total += 1
        now_s = self._now_s()
        peer = self._entry(peer, now_s)
        requests = self._unsaid.pop(peer, 0) + 1
        if now_s - self._said_s.get(peer, now_s - SAY_AGAIN_S) < SAY_AGAIN_S:
            self._unsaid[peer] = requests
            return
        self._said_s[peer] = now_s
        self._telemetry.problem(
            "peer_refused", peer=peer, asked=asked, why=why, requests=requests, total=self.total
        )

    def _entry(self, peer: str, now_s: float) -> str:
        """Under which name a peer is counted: its own while there is room."""
        if peer in self._said_s:
            return peer
        if len(self._said_s) >= MOST_PEERS:
            late = [p for p, said_s in self._said_s.items() if now_s - said_s >= SAY_AGAIN_S]
            for each in late:
                del self._said_s[each]
                self._unsaid.pop(each, None)
        return peer if len(self._said_s) < MOST_PEERS else OTHERS

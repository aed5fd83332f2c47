"""Which peers have given a receipt: remembered over restarts, in a small file of the state folder.

The file is a JSON list of addresses, the newest last. It is replaced when a peer is met for the
first time, or is found to be something else. Where that fails (a full disk, no descriptor) it is
tried again. Processes that share a state folder share it: each changes what the file holds, under a
lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fractal_rm.adapters.lock import FileLock, Held
from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.engine.ports import Telemetry

FILE = "known-peers.json"
TRIES, RETRY_S = 20, 0.05  # while another process changes the file
TRY_AGAIN_S = 60.0  # after the file could not be written: with the next answer of any peer
MOST_KEPT = 1_000  # nodes.conf has a few; what moved away long ago need not be kept


class KnownPeersFile:
    """Port `KnownPeers`. What cannot be read is as if nothing was known, and is logged.

    ``now_s`` never jumps back.
    """

    def __init__(self, state: Path, telemetry: Telemetry, now_s: Callable[[], float]) -> None:
        self._path = state / FILE
        self._telemetry = telemetry
        self._now_s = now_s
        self._known = set(self._read())
        self._unkept: set[str] = set()  # addresses of which the file may say something else
        self._tries_again_s = 0.0

    def has(self, address: str) -> bool:
        """Whether a receipt was given there; see the port."""
        return address in self._known

    async def add(self, address: str) -> None:
        """Remember an address; see the port."""
        await self._learn(address, known=True)

    async def remove(self, address: str) -> None:
        """Forget an address; see the port."""
        await self._learn(address, known=False)

    async def _learn(self, address: str, *, known: bool) -> None:
        if self.has(address) is known:
            if self._unkept and self._now_s() >= self._tries_again_s:
                await self._keep()
            return
        (self._known.add if known else self._known.discard)(address)
        self._unkept.add(address)
        await self._keep()

    async def _keep(self) -> None:
        """Write what the file does not have yet."""
        self._tries_again_s = self._now_s() + TRY_AGAIN_S
        changes = {each: each in self._known for each in self._unkept}
        try:
            for _ in range(TRIES):
                if await asyncio.to_thread(self._rewrite, changes):
                    self._unkept -= {a for a, known in changes.items() if known is self.has(a)}
                    return
                await asyncio.sleep(RETRY_S)
        except OSError as error:
            self._say("known_peers_not_kept", str(error))
        else:
            self._say("known_peers_not_kept", "another process has its lock")

    def _rewrite(self, changes: Mapping[str, bool]) -> bool:
        """False: another process is at it; it may be stopped, so it is not waited for."""
        try:
            lock = FileLock(self._path.with_name(f"{FILE}.lock"))
        except Held:
            return False
        try:
            kept = [each for each in self._read() if each not in changes]
            kept += [each for each, known in changes.items() if known]
            replace_file(self._path, msgspec.json.encode(kept[-MOST_KEPT:]))
        finally:
            lock.release()
        return True

    def _read(self) -> list[str]:
        try:
            return msgspec.json.decode(read_regular(self._path), type=list[str])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._say("known_peers_forgotten", str(error))
            return []

    def _say(self, what: str, why: str) -> None:
        self._telemetry.problem(what, path=str(self._path), reason=why)

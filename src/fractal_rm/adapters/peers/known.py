"""Which peers have given a receipt: remembered over restarts, in a small file of the state folder.

The file is a JSON list of addresses, the newest last. It is replaced when a peer is met for the
first time, or is found to be something else. Processes that share a state folder share it: each
changes what the file holds, under a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.adapters.lock import FileLock, Held
from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.engine.ports import Telemetry

FILE = "known-peers.json"
TRIES, RETRY_S = 20, 0.05  # while another process changes the file
MOST_KEPT = 1_000  # nodes.conf has a few; what moved away long ago need not be kept


class KnownPeersFile:
    """Port `KnownPeers`. What cannot be read is as if nothing was known, and is logged."""

    def __init__(self, state: Path, telemetry: Telemetry) -> None:
        self._path = state / FILE
        self._telemetry = telemetry
        self._known = set(self._read())

    def has(self, address: str) -> bool:
        """Whether a receipt was given there; see the port."""
        return address in self._known

    async def add(self, address: str) -> None:
        """Remember an address; see the port."""
        if address not in self._known:
            self._known.add(address)
            await self._change(lambda kept: [*_without(kept, address), address])

    async def remove(self, address: str) -> None:
        """Forget an address; see the port."""
        if address in self._known:
            self._known.discard(address)
            await self._change(lambda kept: _without(kept, address))

    async def _change(self, changed: Callable[[list[str]], list[str]]) -> None:
        try:
            for _ in range(TRIES):
                if await asyncio.to_thread(self._rewrite, changed):
                    return
                await asyncio.sleep(RETRY_S)
        except OSError as error:
            self._say("known_peers_not_kept", str(error))
        else:
            self._say("known_peers_not_kept", "another process has its lock")

    def _rewrite(self, changed: Callable[[list[str]], list[str]]) -> bool:
        """False: another process is at it; it may be stopped, so it is not waited for."""
        try:
            lock = FileLock(self._path.with_name(f"{FILE}.lock"))
        except Held:
            return False
        try:
            kept = changed(self._read())[-MOST_KEPT:]
            replace_file(self._path, msgspec.json.encode(kept))
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


def _without(addresses: list[str], address: str) -> list[str]:
    return [each for each in addresses if each != address]

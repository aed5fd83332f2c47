"""Which peers have given a receipt: remembered over restarts, in a small file of the state folder.

The file is a JSON list of addresses, the newest last. It is replaced when a peer is met for the
first time, or is found to be something else. Processes that share a state folder share it: each
changes what the file holds, under a lock.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.engine.ports import Telemetry

FILE = "known-peers.json"
MOST_KEPT = 1_000  # nodes.conf has a few; what moved away long ago need not be kept
LOCK_TRIES, LOCK_PAUSE_S = 50, 0.02  # a change takes milliseconds; who holds it longer is stuck


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
            for _ in range(LOCK_TRIES):
                if await asyncio.to_thread(self._rewrite, changed):
                    return
                await asyncio.sleep(LOCK_PAUSE_S)
        except OSError as error:
            self._say("known_peers_not_kept", str(error))
            return
        self._say("known_peers_not_kept", f"another process holds {FILE}.lock")

    def _rewrite(self, changed: Callable[[list[str]], list[str]]) -> bool:
        """Returns False where another process is changing it. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._path.with_name(f"{FILE}.lock")) as locked:
            if locked:
                kept = changed(self._read())[-MOST_KEPT:]
                replace_file(self._path, msgspec.json.encode(kept))
        return locked

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


@contextmanager
def _locked(path: Path) -> Generator[bool]:
    """Hold a lock, if no other process does. Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(file)

"""Remembers which peers have given a receipt, in a file of the state folder.

The file is a JSON list of addresses, the newest last. It is replaced when a peer gives its first
receipt, and when another program answers at the peer's address. If writing fails (a full disk, no
free descriptor), it is retried later. Processes with the same state folder share the file: each
process applies its own changes to the file, under a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.engine.ports import Telemetry

FILE = "known-peers.json"
TRIES, RETRY_S = 20, 0.05  # tries to lock the file, and the pause between two tries
# The pause after a failed write. After this pause, the next answer of any peer starts a retry.
RETRY_WRITE_S = 60.0
MAX_ADDRESSES = 1_000  # nodes.conf has fewer; above this limit, the oldest are dropped


class KnownPeersFile:
    """Port `KnownPeers`. If the file cannot be read, this is logged, and the file counts as empty.

    ``now_s`` is a monotonic clock.
    """

    def __init__(self, state: Path, telemetry: Telemetry, now_s: Callable[[], float]) -> None:
        self._path = state / FILE
        self._telemetry = telemetry
        self._now_s = now_s
        self._addresses = set(self._read())
        self._unwritten: set[str] = set()  # addresses whose last change is not in the file yet
        self._next_try_s = 0.0

    def has(self, address: str) -> bool:
        """Whether a peer at this address has given a receipt; see `KnownPeers.has`."""
        return address in self._addresses

    async def add(self, address: str) -> None:
        """Remember an address; see `KnownPeers.add`."""
        await self._set(address, is_known=True)

    async def remove(self, address: str) -> None:
        """Forget an address; see `KnownPeers.remove`."""
        await self._set(address, is_known=False)

    async def _set(self, address: str, *, is_known: bool) -> None:
        if self.has(address) is is_known:
            if self._unwritten and self._now_s() >= self._next_try_s:
                await self._write()
            return
        (self._addresses.add if is_known else self._addresses.discard)(address)
        self._unwritten.add(address)
        await self._write()

    async def _write(self) -> None:
        """Write the changes that the file does not have yet."""
        self._next_try_s = self._now_s() + RETRY_WRITE_S
        changes = {each: each in self._addresses for each in self._unwritten}
        try:
            for _ in range(TRIES):
                if await asyncio.to_thread(self._rewrite, changes):
                    self._unwritten -= {
                        address
                        for address, is_known in changes.items()
                        if is_known is self.has(address)
                    }
                    return
                await asyncio.sleep(RETRY_S)
        except OSError as error:
            self._log("known_peers_not_written", str(error))
        else:
            self._log("known_peers_not_written", "another process has locked the file")

    def _rewrite(self, changes: Mapping[str, bool]) -> bool:
        """Apply changes to the file. Returns False if another process has the lock."""
        try:
            lock = FileLock(self._path.with_name(f"{FILE}.lock"))
        except LockHeld:
            return False
        try:
            addresses = [each for each in self._read() if each not in changes]
            addresses += [each for each, is_known in changes.items() if is_known]
            replace_file(self._path, msgspec.json.encode(addresses[-MAX_ADDRESSES:]))
        finally:
            lock.release()
        return True

    def _read(self) -> list[str]:
        try:
            return msgspec.json.decode(read_regular(self._path), type=list[str])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log("known_peers_unreadable", str(error))
            return []

    def _log(self, event: str, reason: str) -> None:
        self._telemetry.problem(event, path=str(self._path), reason=reason)

"""The open connections of clients that are not trusted: how many there may be."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractal_rm.web.client import Client

# How many connections of untrusted machines may be open. Their requests get a refusal. For each
# further connection, one is aborted.
MAX_UNTRUSTED = 64


class UntrustedConnections:
    """The clients of these connections, by their machines; the oldest of each machine first."""

    def __init__(self) -> None:
        self.count = 0
        self._by_machine: defaultdict[str, dict[Client, None]] = defaultdict(dict)

    def add(self, client: Client) -> None:
        """Add the client of a new connection."""
        self.count += 1
        self._by_machine[client.machine][client] = None

    def discard(self, client: Client) -> None:
        """Remove a client, if it is here."""
        of_machine = self._by_machine.get(client.machine, {})
        if client not in of_machine:
            return
        self.count -= 1
        del of_machine[client]
        if not of_machine:
            del self._by_machine[client.machine]

    def excess(self) -> Client | None:
        """The client whose connection must be closed now; None if there are not too many.

        It is the oldest one of the machine with the most connections. So slow connections cannot
        keep out a client that is about to send its token, and neither can a flood of connections
        from another machine.
        """
        if self.count <= MAX_UNTRUSTED:
            return None
        return next(iter(max(self._by_machine.values(), key=len)))

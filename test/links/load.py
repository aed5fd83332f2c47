"""The load: clients on each machine send triggers, and know which runs were executed where."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from links.pair import LinkedSite

CLIENTS = 4  # per node
MAX_OPEN = 100  # runs of a node that are acknowledged and not executed; then its clients wait
_TRIGGER = {"id_flow": "1", "is_load_balancing": False}


class Tally:
    """Which runs were acknowledged, and which calls the components of each site have got.

    ``acknowledged``: for each site, the ids of its runs. ``calls``: for each site, the number of
    calls for each run.
    """

    def __init__(self, sites: Sequence[LinkedSite]) -> None:
        self._lock = threading.Lock()
        self._sites = sites
        self._read = [0 for _ in sites]  # requests that were counted
        self._open: list[set[str]] = [set() for _ in sites]
        self.acknowledged: list[set[str]] = [set() for _ in sites]
        self.calls: list[Counter[str]] = [Counter() for _ in sites]

    def acknowledge(self, number: int, run: str) -> None:
        """Count a run that the node of site ``number`` has acknowledged."""
        with self._lock:
            self.acknowledged[number].add(run)
            if not any(run in calls for calls in self.calls):
                self._open[number].add(run)

    def open_count(self, number: int) -> int:
        """The number of acknowledged runs of a site that no component has got a call of."""
        self.update()
        return len(self._open[number])

    def handed_over(self, number: int) -> int:
        """The number of runs of a site that other sites have executed."""
        self.update()
        with self._lock:
            return len(self.acknowledged[number] & self.called_elsewhere(number))

    def called_elsewhere(self, number: int) -> set[str]:
        """The runs of which the components of the other sites have got calls."""
        others = (calls for each, calls in enumerate(self.calls) if each != number)
        return set().union(*others)

    def update(self) -> None:
        """Count the calls that the components have got since the last time."""
        with self._lock:
            for number, site in enumerate(self._sites):
                requests = site.components.requests
                end = len(requests)
                for _, key, _ in requests[self._read[number] : end]:
                    run = key.partition(":")[0]
                    if run:
                        self.calls[number][run] += 1
                        for each in self._open:
                            each.discard(run)
                self._read[number] = end


class Load:
    """Sends triggers to all nodes until ``stop`` is called. Repeats each until it is acknowledged.

    ``name`` begins the trigger ids.
    """

    def __init__(self, sites: Sequence[LinkedSite], tally: Tally, name: str) -> None:
        self._tally = tally
        self._name = name
        self._stop = threading.Event()
        self._threads = [
            thread
            for number, site in enumerate(sites)
            for thread in site.machine.call(self._start_clients, number, site)
        ]

    def _start_clients(self, number: int, site: LinkedSite) -> list[threading.Thread]:
        """Start the clients of a node. They belong to the machine of the calling thread."""
        threads = [
            threading.Thread(target=self._send_triggers, args=(number, site, client), daemon=True)
            for client in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        return threads

    def stop(self) -> None:
        """Stop the clients, after each has got an acknowledgement."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a trigger was not acknowledged"

    def _send_triggers(self, number: int, site: LinkedSite, client: int) -> None:
        sent = 0
        connection = http.client.HTTPConnection("127.0.0.1", site.node.rest, timeout=20)
        while not self._stop.is_set():
            if self._tally.open_count(number) >= MAX_OPEN:
                time.sleep(0.02)
                continue
            key = f"{self._name}-{number}-{client}-{sent}"
            run = _acknowledged(connection, key)
            while run is None:
                time.sleep(0.02)  # the node is killed, or starts
                run = _acknowledged(connection, key)
            self._tally.acknowledge(number, run)
            sent += 1
        connection.close()


def _acknowledged(connection: http.client.HTTPConnection, key: str) -> str | None:
    """Send a trigger. Returns the id of its run, or None if it was not acknowledged."""
    body = json.dumps({**_TRIGGER, "payload": key}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    with suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/startrm", body, headers)
        reply = connection.getresponse()
        content = reply.read()
        if reply.status == 200:
            return json.loads(content)["run"]
    connection.close()
    return None

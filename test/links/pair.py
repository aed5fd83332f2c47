"""Two machines that are joined by a link. On each of them: a node, its component, its balancer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from machine_access import new_token, write_certificate
from machines import Machine, connect
from nodes import wait_until
from sites import FIRST, SECOND, Site

OFFER_LIMIT_S = 5
FLOWS = "1\nTO component1 1\nPOST payload\n"  # one call for each run


class LinkedSite(Site):
    """A site whose node is killed and started while other threads use its machine."""

    def start_node(self) -> None:
        """Start the node, and wait until it logs that it is ready."""
        log = self.node.folder / "node.log"
        begin = log.stat().st_size if log.exists() else 0
        process = self.machine.call(self.node.launch, **self.launch_environment()).process

        def is_ready() -> bool:
            with log.open("rb") as output:
                output.seek(begin)
                new_text = output.read()
            assert process.poll() is None, new_text.decode(errors="replace")
            return b" ready " in new_text

        wait_until(is_ready, within_s=60)

    def launch_environment(self) -> dict[str, str]:
        """Further environment variables of the node."""
        return {}

    def open_runs(self) -> int:
        """The number of runs that have not ended, according to the journal."""
        counts = self.node.history.flow_counts()
        return sum(
            number for flow in counts for state, number in flow.states.items() if not state.final
        )

    def executions(self, run: str) -> int:
        """How many calls of a run the component of this site has got."""
        return self.components.per_key()[f"{run}:1"]

    def unread_bytes(self) -> int:
        """The bytes that have arrived at the port of the node, and that it has not read."""
        lines = self.machine.call(Path("/proc/thread-self/net/tcp").read_text).splitlines()[1:]
        rows = [line.split() for line in lines]
        return sum(
            int(queues.partition(":")[2], 16)
            for _, local, _, _, queues, *_ in rows
            if int(local.partition(":")[2], 16) == self.node.rest
        )

    def stop_node(self) -> None:
        assert self.node.stop() == 0, self.node.log[-5000:]


class Pair:
    """The two sites. Each balancer names the other node."""

    def __init__(
        self, machines: tuple[Machine, Machine], folder: Path, offer_limit_s: int = OFFER_LIMIT_S
    ) -> None:
        self.offer_limit_s = offer_limit_s
        self.authority = trustme.CA()
        self._folder = folder / "access"
        self._folder.mkdir()
        self.sites = tuple(
            LinkedSite(machine, folder / f"node-{node_id}", host, node_id)
            for machine, host, node_id in zip(machines, (FIRST, SECOND), ("1", "2"), strict=True)
        )
        for site, other_id in zip(self.sites, ("2", "1"), strict=True):
            (site.node.config / "flows.conf").write_text(FLOWS)
            # Each kill counts as an attempt of the runs in flight.
            site.node.edit("comm", recovery__max_attempts=100)
            site.set_balancer(other_id)
            (self._folder / f"token-{site.host}").write_text(new_token(site, "peer", "trigger"))

    def set_access(self, *, by_certificate: Site) -> None:
        """Let a site recognize its peer by a certificate, and the other site by a token."""
        for site in self.sites:
            content = site.node.read("comm")
            content["rest"].pop("tls", None)
            site.node.write("comm", content)
            peer, = (each for each in self.sites if each is not site)  # fmt: skip
            keys: dict[str, object] = {"token": f"${{file:{self._folder}/token-{peer.host}}}"}
            if peer is by_certificate:
                tls = write_certificate(self.authority, self._folder, site.host)
                keys = {"protocol": "https", "tls": tls}
            node_id = peer.node.read("comm")["node"]["id"]
            limit = {"timeout_s": self.offer_limit_s}
            site.node.add_peer(peer.node, node_id, ip=peer.host, peer="fractal", **limit, **keys)
        certificate = write_certificate(self.authority, self._folder, by_certificate.host)
        by_certificate.node.edit("comm", rest__tls=certificate)

    def start(self) -> None:
        for site in self.sites:
            site.start_node()

    def stop(self) -> None:
        for site in self.sites:
            site.stop_node()

    def stop_without_problems(self) -> None:
        """Stop the nodes. Assert that their logs have no traceback and their journals no damage."""
        self.stop()
        for site in self.sites:
            assert "Traceback" not in site.node.log
            assert site.node.problems() == []

    def end(self) -> None:
        """Kill the nodes that run, and stop the components."""
        for site in self.sites:
            process = site.node.process
            if process is not None and process.poll() is None:
                site.node.kill()
            site.components.stop()


@contextmanager
def joined_pair(
    machines: tuple[Machine, Machine], folder: Path, offer_limit_s: int = OFFER_LIMIT_S
) -> Iterator[Pair]:
    """Join two machines with a link. The nodes are not started."""
    with connect(*machines):
        pair = Pair(machines, folder, offer_limit_s)
        try:
            yield pair
        finally:
            pair.end()


def cpu_s() -> float:
    """CPU seconds of the processes that this process has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system

"""A rolling restart of three nodes under load. One of them runs an earlier release at first.

Each node is drained before it is stopped, except in the earlier release, which cannot be drained.
The nodes are on three machines that a switch connects, and know each other by tokens.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components import slow
from links.load import Load, Tally
from links.pair import FLOWS, OFFER_LIMIT_S, LinkedSite
from links.passes import wait_until_all_runs_have_ended
from machine_access import new_token
from machines import Machine, connect_all
from nodes import wait_until

REPOSITORY = Path(__file__).parents[2]
HOSTS = "10.177.0.1", "10.177.0.2", "10.177.0.3"
EARLIER_COMMIT = "45afd9ce"  # the last commit with version 1 of the hand-off protocol
ROUNDS = 3
RUNS_BETWEEN = 300  # runs that are acknowledged between two restarts
MAX_IN_FLIGHT, CALL_S = 5, 0.01


class RestartedSite(LinkedSite):
    """A site whose balancer names the other nodes and its own node in turn.

    ``source`` is the folder of the program that the node runs. None: this program.
    """

    source: Path | None = None

    def set_balancer_in_turn(self, node_ids: list[str]) -> None:
        in_turn = itertools.cycle(node_ids)
        self.components.answers["/LB/id_node"] = lambda *_: (
            200, json.dumps({"id_node": next(in_turn)})
        )  # fmt: skip

    def launch_environment(self) -> dict[str, str]:
        return {} if self.source is None else {"PYTHONPATH": str(self.source)}

    def restart(self, source: Path | None) -> None:
        """Drain the node, stop it, and start it with the program in ``source``.

        The earlier release cannot be drained.
        """
        if self.source is None:
            self.node.command("drain")
            wait_until(self._is_drained, within_s=60)
        self.stop_node()
        self.source = source
        self.start_node()
        self.node.command("drain", "--off")

    def _is_drained(self) -> bool:
        draining = json.loads(self.node.command("drain", "--json").stdout)
        return not any(draining["open_runs"].values()) and "drained" in self.checks_text()

    def checks_text(self) -> str:
        """The texts of the checks of /readyz."""
        return str(self.machine.call(self.node.checks))


@contextmanager
def three_sites(folder: Path) -> Iterator[list[RestartedSite]]:
    """Three machines with nodes that are not started. The third runs the earlier release."""
    machines = [Machine(f"{host}/24") for host in HOSTS]
    with connect_all(*machines):
        sites = [
            RestartedSite(machine, folder / f"restarted-{number}", host, str(number))
            for number, (machine, host) in enumerate(zip(machines, HOSTS, strict=True), 1)
        ]
        try:
            _join(sites)
            sites[2].source = earlier_source(folder / "earlier")
            yield sites
        finally:
            for site in sites:
                process = site.node.process
                if process is not None and process.poll() is None:
                    site.node.kill()
                site.components.stop()


def _join(sites: list[RestartedSite]) -> None:
    for site in sites:
        (site.node.config / "flows.conf").write_text(FLOWS)
        # So runs wait, and a node that is drained gives them to other nodes.
        site.node.edit("comm", state__max_inflight_runs=MAX_IN_FLIGHT)
        site.components.answers["/endpoint1"] = slow(CALL_S)
        site.set_balancer_in_turn(["1", "2", "3"])
        for peer in sites:
            token = new_token(peer, f"from-{site.host}", "trigger")
            site.node.add_peer(
                peer.node, peer.node.read("comm")["node"]["id"], ip=peer.host, peer="fractal",
                timeout_s=OFFER_LIMIT_S, token=token,
            )  # fmt: skip


def has_earlier_release() -> bool:
    """Whether the history of the repository has the commit of the earlier release."""
    command = ["git", "-C", REPOSITORY, "cat-file", "-e", EARLIER_COMMIT]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def earlier_source(folder: Path) -> Path:
    """Write the source of the earlier release to a folder. Returns the folder for PYTHONPATH."""
    folder.mkdir()
    command = ["git", "-C", REPOSITORY, "archive", EARLIER_COMMIT, "src"]
    archive = subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder / "src"


def restart_in_turn(sites: list[RestartedSite], tally: Tally) -> int:
    """Restart each node several times under load. Returns the number of restarts.

    Before the last round, the third node is updated to this program.
    """
    for site in sites:
        site.start_node()
    load = Load(sites, tally, "restarts")
    restarts = 0
    try:
        for number in range(ROUNDS):
            for site in sites:
                _wait_for_runs(tally, RUNS_BETWEEN)
                site.restart(None if number == ROUNDS - 1 else site.source)
                restarts += 1
        _wait_for_runs(tally, RUNS_BETWEEN)
    finally:
        load.stop()
    wait_until_all_runs_have_ended(sites)
    for site in sites:
        site.stop_node()
    return restarts


def _wait_for_runs(tally: Tally, more: int) -> None:
    """Wait until so many more runs are acknowledged."""
    wanted = sum(map(len, tally.acknowledged)) + more
    while sum(map(len, tally.acknowledged)) < wanted:
        time.sleep(0.01)

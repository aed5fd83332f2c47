"""Two machines with the shipped configuration are joined by the two commands of the README.

After that, each node hands runs off to the other over TLS.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import textwrap

import pytest

import programs
from config_files import ROOT, copy_shipped
from fractal_rm.domain.state import State
from machines import connect, machine
from nodes import wait_until
from sites import FIRST, FIRST_6, SECOND, SECOND_6, Site, assert_handed_off


class FreshSite(Site):
    """A machine with the shipped configuration, in which only the ports are changed."""

    def __init__(self, its_machine, folder, host: str) -> None:
        super().__init__(its_machine, folder, host, "")
        for file in self.node.config.iterdir():
            file.unlink()
        self.node.config.rmdir()
        copy_shipped(folder)
        self.node.rest = 5000  # the default: the network of this machine is its own
        for name in ("components", "load_balancer"):
            path = self.node.config / f"{name}.conf"
            path.write_text(path.read_text().replace("6000", str(self.components.port)))

    def run(self, command: str):
        """Run a command of the README on this machine."""
        words = command.replace("runtime_manager/config_files", str(self.node.config)).split()
        assert words[0] == "fractal-rm"
        # A new process, because the loader of programs.py belongs to the network of one machine.
        command = [*programs.COMMAND, *words[1:]]
        return self.machine.call(subprocess.run, command, capture_output=True, text=True)


def readme_command(name: str, addresses: dict[str, str]) -> str:
    """The command ``fractal-rm pair`` of the README, with the addresses of the test."""
    readme = (ROOT / "README.md").read_text()
    command = re.search(f"^ *(fractal-rm pair {name} .*)$", readme, re.MULTILINE)
    assert command
    text = command[1]
    for shown, real in addresses.items():
        text = text.replace(shown, real)
    return text


def readme_blocks(title: str) -> list[str]:
    """The blocks of code in a section of the README."""
    readme = (ROOT / "README.md").read_text()
    section = readme.partition(f"\n### {title}\n")[2].partition("\n### ")[0]
    blocks = re.findall("^( *)```\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in blocks]


@contextlib.contextmanager
def balancer_of_readme(site: FreshSite, commands: str):
    """Run the balancer of the README on a machine, until the end of the block."""
    folder = site.node.folder / "of-the-balancer"
    folder.mkdir()
    with site.machine.call(
        subprocess.Popen, ["sh", "-c", commands], cwd=folder, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        try:
            assert "Serving HTTP" in process.stdout.readline()
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def two_fresh_sites(tmp_path, first: str, second: str):
    networks = [f"{each}/{64 if ':' in each else 24}" for each in (first, second)]
    first_machine, second_machine = map(machine, networks)
    with connect(first_machine, second_machine):
        sites = [
            FreshSite(each, tmp_path / name, host)
            for each, name, host in (
                (first_machine, "first", first),
                (second_machine, "second", second),
            )
        ]
        try:
            yield sites
        finally:
            for site in sites:
                site.end()


def join(first: FreshSite, second: FreshSite) -> str:
    """Join two machines by the commands of the README. Returns the output of the second."""
    addresses = {"10.1.0.1": first.host, "10.1.0.2": second.host}
    invited = first.run(readme_command("invite", addresses))
    assert invited.returncode == 0, invited.stderr
    line = invited.stdout.strip()
    running = [site.node for site in (first, second) if site.node.process is not None]
    earlier = [node.log.count("config_applied") for node in running]
    accepted = second.run(readme_command("accept", addresses).replace("LINE", line))
    assert accepted.returncode == 0, accepted.stderr
    for node, count in zip(running, earlier, strict=True):
        wait_until(lambda n=node, c=count: n.log.count("config_applied") > c)
    return accepted.stdout


@pytest.mark.parametrize(("first_host", "second_host"), [(FIRST, SECOND), (FIRST_6, SECOND_6)])
def test_two_machines_are_joined_by_two_commands(tmp_path, first_host, second_host):
    with two_fresh_sites(tmp_path, first_host, second_host) as (first, second):
        first.machine.call(first.node.start)
        output = join(first, second)
        shown = [f"[{each}]" if ":" in each else each for each in (second_host, first_host)]
        old = "http://127.0.0.1:6000/nodo2"
        assert f"on node 1, the entry of node 2 was replaced: {old}" in output
        assert output.endswith(
            f"joined: node 2 at https://{shown[0]}:5000 and node 1 at https://{shown[1]}:5000\n"
        )
        second.machine.call(second.node.start)
        assert_handed_off(second, first)
        assert_handed_off(first, second)
        for site in (first, second):
            for path in (site.node.state / "pair").iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_running_node_uses_the_changes_of_accept_without_a_restart(tmp_path):
    with two_fresh_sites(tmp_path, FIRST, SECOND) as (first, second):
        for site in (first, second):
            site.machine.call(site.node.start)
        join(first, second)
        assert_handed_off(second, first)
        assert_handed_off(first, second)


def test_after_pair_remove_the_other_node_executes_its_runs_itself(tmp_path):
    with two_fresh_sites(tmp_path, FIRST, SECOND) as (first, second):
        for site in (first, second):
            site.machine.call(site.node.start)
        join(first, second)
        removed = first.run("fractal-rm pair remove 2 --config runtime_manager/config_files")
        assert removed.returncode == 0, removed.stderr
        assert "the token pair-2" in removed.stdout
        second.set_balancer("1")
        details = second.wait_for_state(second.send_trigger(), State.SUCCEEDED)
        assert "node 1 refused the run (401): it does not know the token" in str(details.facts)


def test_the_commands_of_the_readme_hand_a_run_to_the_other_machine(tmp_path):
    commands, load_balancer, trigger, *shown = readme_blocks("Hand a run to the other machine")
    body = re.search("-d '(.*)'", trigger)[1].encode()
    table = readme_blocks("Join two machines")[-1]
    with two_fresh_sites(tmp_path, FIRST, SECOND) as (first, second):
        for site in (first, second):
            site.machine.call(site.node.start)
        join(first, second)
        keep_only_entry(first, "2")
        keep_only_entry(second, "1")
        done = first.run("fractal-rm nodes --config runtime_manager/config_files")
        assert (done.returncode, words_of(done.stdout)) == (0, words_of(table))
        with balancer_of_readme(first, commands):
            change(first.node, "load_balancer", json.loads(load_balancer))
            headers = {"Content_Type": "application/json"}
            answer = first.machine.call(
                first.node.request, "POST", "/startrm", body, **headers
            ).body  # fmt: skip
            first.wait_for_state(answer["run"], State.HANDED_OFF)
            second.wait_for_state(answer["run"], State.SUCCEEDED)
        for site, text in zip((first, second), shown, strict=True):
            done = site.run("fractal-rm runs list --config runtime_manager/config_files")
            assert words_of(done.stdout) == words_of(text)


def change(node, file: str, content: object) -> None:
    """Write a file of the configuration, and wait until the running node uses it."""
    earlier = node.log.count("config_applied")
    node.write(file, content)
    wait_until(lambda: node.log.count("config_applied") > earlier)


def keep_only_entry(site: FreshSite, node_id: str) -> None:
    """Delete the shipped entries of nodes.conf, as the README says."""
    change(site.node, "nodes", {node_id: site.node.read("nodes")[node_id]})


def words_of(table: str) -> list[list[str]]:
    """The words of each line of a table, without ids of runs, times and other numbers."""
    lines = [re.sub(r"\S*\d\S*", "", line) for line in table.splitlines()]
    return [line.split() for line in lines]

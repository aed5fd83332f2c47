"""Two nodes on this machine are joined, and each refusal says why and changes nothing."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import programs
from fractal_rm.domain.pairing import line_text, read_line, secret_text
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until

INVITER, GUEST = "127.0.0.2", "127.0.0.3"


class PairNode:
    """A node on an address of its own. Its configuration is as shipped, except for the ports."""

    def __init__(self, node: NodeProcess, host: str, node_id: str) -> None:
        self.node, self.host, self.id = node, host, node_id
        node.write("comm", {"mqtt": {"port": 1}, "rest": {"endpoint": "/startrm",
                                                          "port": node.rest}})  # fmt: skip

    def pair(self, command: str, *words: str):
        options = ["--name", self.id, "--address", self.host, "--switch-to-https"]
        return self.node.command("pair", command, *words, *options)

    def invite(self) -> str:
        done = self.pair("invite")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def accept(self, line: str, *words: str):
        return self.pair("accept", line, *words)

    def join(self, inviter: PairNode, *words: str) -> str:
        """Join this node, which is running. Returns the output when both nodes use the changes."""
        line, nodes = inviter.invite(), (self.node, inviter.node)
        earlier = [node.log.count("config_applied") for node in nodes]
        done = self.accept(line, *words)
        assert done.returncode == 0, done.stderr
        for node, count in zip(nodes, earlier, strict=True):
            wait_until(lambda n=node, c=count: n.log.count("config_applied") > c)
        return done.stdout

    def refused(self, line: str) -> str:
        """Try to accept a line. Asserts that it fails and changes nothing. Returns the message."""
        before = self.content()
        done = self.accept(line)
        assert (done.returncode, done.stdout) == (4, "")
        assert self.content() == before
        return done.stderr

    def content(self) -> dict[str, bytes]:
        """The files that the commands may change."""
        state = self.node.state
        files = [*self.node.config.iterdir(), *state.glob("pair/*"), *state.glob("tokens.json")]
        return {str(file): file.read_bytes() for file in files if file.is_file()}

    def entry(self, node_id: str):
        return self.node.read("nodes")[node_id]["config"]

    def request(self, method: str, path: str, body: object = None, token: str | None = None):
        """Send a request over TLS. Returns the status and the body."""
        context = ssl.create_default_context(cafile=str(self.node.state / "pair" / "node.pem"))
        headers = {"Content-Type": "application/json", "Prefer": "wait=20"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPSConnection(
            self.host, self.node.rest, timeout=30, context=context
        )
        try:
            connection.request(method, path, json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def send_trigger(self) -> str:
        body = {"id_flow": "1", "is_load_balancing": False, "payload": "p"}
        return self.request("POST", "/startrm", body)[1]["run"]


@pytest.fixture
def inviter(make, components):
    node = PairNode(make("inviter", balancer=components.port), INVITER, "1")
    node.node.start()
    return node


@pytest.fixture
def guest(make, components):
    return PairNode(make("guest", balancer=components.port), GUEST, "2")


def assert_hands_off(sender: PairNode, receiver: PairNode, components) -> None:
    components.answers["/LB/id_node"] = (200, json.dumps({"id_node": receiver.id}))
    run = sender.send_trigger()
    for node, state in ((sender, State.HANDED_OFF), (receiver, State.SUCCEEDED)):
        wait_until(lambda n=node.node, s=state: (d := n.history.run(run)) and d.summary.state is s)


def test_joined_nodes_hand_runs_off_to_each_other(inviter, guest, components):
    guest.node.start()
    guest.join(inviter)
    assert "paired node=2" in inviter.node.log
    assert_hands_off(inviter, guest, components)
    assert_hands_off(guest, inviter, components)


def test_the_line_can_be_read_from_standard_input(inviter, guest):
    words = ["--name", "2", "--address", GUEST, "--switch-to-https"]
    line = inviter.invite().encode() + b"\n"
    done = programs.run("pair", "accept", "-", *words, "--config", guest.node.config, stdin=line)
    assert done.returncode == 0, done.stderr


def test_a_line_is_refused_when_it_is_used_again(inviter, guest, make):
    line = inviter.invite()
    assert guest.accept(line).returncode == 0
    third = PairNode(make("third"), "127.0.0.4", "3")
    assert "node 1 refuses: this invitation was used already, by node 2" in third.refused(line)
    assert 'pair_refused reason="this invitation was used already, by node 2"' in inviter.node.log


def test_of_two_nodes_that_use_a_line_at_the_same_time_one_is_joined(inviter, guest, make):
    third = PairNode(make("third"), "127.0.0.4", "3")
    line = inviter.invite()
    with ThreadPoolExecutor(2) as threads:
        codes = list(threads.map(lambda node: node.accept(line).returncode, (guest, third)))
    assert sorted(codes) == [0, 4]
    assert len(inviter.node.read("nodes")) == 1


def test_a_line_is_refused_when_it_is_late(inviter, guest):
    line = inviter.invite()
    path = inviter.node.state / "pair" / "invitation.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "until_boot_ms": stored["from_boot_ms"]}))
    message = guest.refused(line)
    assert "this invitation has expired: it was valid for 10 minutes" in message
    assert "Run `fractal-rm pair invite` on node 1 again" in message
    assert 'pair_refused reason="this invitation has expired' in inviter.node.log


def test_a_later_invitation_replaces_an_earlier_one(inviter, guest):
    earlier, later = inviter.invite(), inviter.invite()
    message = guest.refused(earlier)
    assert "node 1 refuses: a newer invitation has replaced this line, or the line was" in message
    assert "token" not in message
    assert guest.accept(later).returncode == 0


def test_a_wrong_secret_is_answered_in_the_same_way_with_and_without_an_invitation(inviter):
    line = inviter.invite()
    wrong = secret_text(bytes(16))
    answers = [inviter.request("POST", "/v1/pair", {}, wrong)]
    answers.append(inviter.request("POST", "/v1/pair", {}, "frm_wrong"))
    (inviter.node.state / "pair" / "invitation.json").unlink()
    answers.append(inviter.request("POST", "/v1/pair", {}, wrong))
    answers.append(inviter.request("POST", "/v1/pair", {}, secret_text(read_line(line).secret)))
    assert answers[0][0] == 401
    assert answers == answers[:1] * 4


def test_after_five_wrong_secrets_an_invitation_is_void_even_after_a_restart(inviter, guest):
    line = inviter.invite()
    for _ in range(5):
        assert inviter.request("POST", "/v1/pair", {}, secret_text(bytes(16)))[0] == 401
    assert "this invitation is void: a wrong secret was sent 5 times" in guest.refused(line)
    assert inviter.node.stop() == 0
    inviter.node.start()
    assert "this invitation is void" in guest.refused(line)


def test_the_secret_allows_no_other_request_and_no_other_token_can_pair(inviter):
    secret = secret_text(read_line(inviter.invite()).secret)
    token = inviter.node.command("token", "new", "t", "--scope", "admin").stdout.strip()
    for method, path in (("GET", "/v1/runs"), ("POST", "/startrm"), ("GET", "/v1/pair")):
        assert inviter.request(method, path, {}, secret)[0] == 403
    for other in (token, None):  # without a token: a program on this machine
        assert inviter.request("POST", "/v1/pair", {}, other)[0] == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ([], 422),
        ({"address": ["3", "127.0.0.4", 1, "/${file:/etc/passwd}"], "certificate": "",
          "token": "", "now_ms": 0}, 409),
        ({"address": ["../x", "127.0.0.4", 1, "/a"], "certificate": "", "token": "",
          "now_ms": 0}, 409),
    ],
)  # fmt: skip
def test_an_invalid_request_changes_nothing_and_does_not_use_up_the_invitation(
    inviter, guest, body, status
):
    line = inviter.invite()
    before = inviter.content()
    secret = secret_text(read_line(line).secret)
    assert inviter.request("POST", "/v1/pair", body, secret)[0] == status
    assert inviter.content() == before
    assert guest.accept(line).returncode == 0


def test_two_nodes_with_the_same_id_are_not_joined(inviter, make):
    line = inviter.invite()
    same = PairNode(make("same"), GUEST, "1")
    assert "both nodes have the id 1; each node needs an id of its own" in same.refused(line)


def test_a_machine_with_another_certificate_gets_no_secret(inviter, guest):
    invitation = read_line(inviter.invite())
    wrong = line_text(type(invitation)(invitation.address, bytes(32), invitation.secret))
    assert "has another certificate than the line says" in guest.refused(wrong)
    assert "pair_refused" not in inviter.node.log
    assert guest.accept(line_text(invitation)).returncode == 0


def test_if_the_other_node_cannot_be_reached_nothing_is_written(inviter, guest):
    line = inviter.invite()
    assert inviter.node.stop() == 0
    assert "cannot be reached: Connection refused" in guest.refused(line)


def test_a_wrong_line_is_refused_before_anything_is_sent(inviter, guest):
    line = inviter.invite()
    assert "a part of the line is missing" in guest.refused(line[:-3])
    assert guest.accept(line).returncode == 0


def test_if_this_node_cannot_write_its_files_the_other_one_is_not_asked(inviter, guest):
    line = inviter.invite()
    guest.node.state.mkdir()
    (guest.node.state / "pair").write_text("a file in place of the folder")
    before = inviter.content()
    assert "nothing was changed" in guest.refused(line)
    assert inviter.content() == before


def test_if_the_other_node_cannot_write_its_files_nothing_is_written_here(inviter, guest):
    line = inviter.invite()
    (inviter.node.state / "pair" / "node-2.token").mkdir()
    before = inviter.content()
    message = guest.refused(line)
    assert "node 1 refuses" in message
    assert "node-2.token cannot be written: Is a directory" in message
    assert inviter.content() == before


def test_if_this_node_fails_after_the_answer_the_message_says_how_to_undo_it(inviter, guest):
    line = inviter.invite()
    (guest.node.state / "pair" / "node-1.token").mkdir(parents=True)
    assert "node 1 has added this node" in (message := guest.refused(line))
    assert message.strip().endswith("run there: fractal-rm pair remove 2")
    assert inviter.node.command("pair", "remove", "2").returncode == 0
    assert inviter.node.read("nodes") == {}


def test_a_dry_run_shows_the_entries_of_both_nodes_and_changes_nothing(inviter, guest):
    before = inviter.content()
    done = inviter.pair("invite", "--dry-run")
    assert 'comm.conf: rest.host = "127.0.0.2"' in done.stdout
    assert inviter.content() == before
    line, before = inviter.invite(), guest.content()
    done = guest.accept(line, "--dry-run")
    assert f'"ip": "{INVITER}"' in done.stdout
    assert f'"ip": "{GUEST}"' in done.stdout
    shown = json.loads(guest.accept(line, "--dry-run", "--json").stdout)
    assert shown["entry"]["1"]["config"]["ip"] == INVITER
    assert shown["entry_there"]["2"]["config"]["ip"] == GUEST
    assert guest.content() == before
    assert guest.accept(line).returncode == 0


def test_without_a_running_node_no_line_is_printed_and_nothing_is_written(guest):
    before = guest.content()
    done = guest.pair("invite")
    assert (done.returncode, done.stdout) == (4, "")
    assert "start the node first (`fractal-rm up` or `rm_api.py`)" in done.stderr
    assert guest.content() == before


def test_without_openssl_the_message_says_what_to_install(guest):
    command = [*programs.COMMAND, "pair", "invite", "--name", "1", "--address", GUEST,
               "--switch-to-https", "--config", str(guest.node.config)]  # fmt: skip
    environ = {**os.environ, "PATH": "/nonexistent"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 4
    assert "apt install openssl" in done.stderr


def test_http_is_not_replaced_by_https_unless_this_is_asked_for(inviter):
    done = inviter.node.command("pair", "invite", "--name", "1", "--address", INVITER)
    assert done.returncode == 4
    assert "--switch-to-https" in done.stderr


def test_joining_again_replaces_the_entry_and_the_tokens(inviter, guest, components):
    guest.node.start()
    guest.join(inviter)
    old = (guest.node.state / "pair" / "node-1.token").read_text().strip()
    guest.node.edit("nodes", **{"1__config__limit": 3, "1__config__after_silence": "unknown"})
    shown = guest.join(inviter, "--new-certificate")
    assert f"nodes.conf: renews the entry of node 1 at https://{INVITER}:" in shown
    assert "on node 1, the entry of node 2 was renewed\n" in shown
    assert guest.entry("1")["limit"] == 3
    assert "after_silence" not in guest.entry("1")
    assert inviter.request("GET", "/v1/runs", None, old)[0] == 401
    assert_hands_off(inviter, guest, components)
    assert_hands_off(guest, inviter, components)


def test_the_other_entries_and_the_form_of_the_files_stay(inviter, guest):
    path = guest.node.config / "nodes.conf"
    other = '  "7" : {"id":7, "config":{"protocol":"http","ip":"10.0.0.7","port":1,"endpoint":"x"}}'
    path.write_text("{\n" + other + "\n}\n")
    path.chmod(0o640)
    link = guest.node.folder / "linked.conf"
    path.rename(link)
    path.symlink_to(link)
    assert guest.accept(inviter.invite()).returncode == 0
    assert path.is_symlink()
    assert link.stat().st_mode & 0o777 == 0o640
    assert link.read_text().startswith("{\n" + other + ',\n  "1": {\n    "id": 1,\n')
    assert guest.node.command("pair", "remove", "1").returncode == 0
    assert link.read_text() == "{\n" + other + "\n}\n"


def test_only_joined_nodes_are_removed(inviter):
    inviter.node.add_peer(inviter.node, "9")
    done = inviter.node.command("pair", "remove", "9")
    assert (done.returncode, done.stdout) == (1, "node 9 is not joined with this node\n")
    assert "9" in inviter.node.read("nodes")
    assert inviter.node.command("pair", "remove", "../../x").returncode == 4


def test_private_files_have_mode_0600(inviter, guest):
    assert guest.accept(inviter.invite()).returncode == 0
    for node in (inviter.node, guest.node):
        paths = list(Path(node.state / "pair").iterdir())
        assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
        assert (node.state / "pair").stat().st_mode & 0o777 == 0o700

"""`fractal-rm nodes`: what it shows about the nodes of nodes.conf."""

from __future__ import annotations

import json
import re
import socket
import threading

import msgspec
import pytest
import trustme

from doubtful_peers import add_doubtful_peer, description_of, run_in_doubt
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.domain.state import State
from nodes import HOST, wait_until
from ports import free_port


def entry(port: int, endpoint: str = "startrm", **keys: object) -> dict:
    return {"config": {"protocol": "http", "ip": HOST, "port": port, "endpoint": endpoint, **keys}}


def nodes_of(node) -> tuple[int, dict[str, dict]]:
    """Run `nodes --json`. Returns the exit code, and the nodes by id."""
    result = node.command("nodes", "--json")
    assert result.stderr == ""
    return result.returncode, {each["id"]: each for each in json.loads(result.stdout)["nodes"]}


def describing(**fields):
    """A component's answer: the description of a node whose clock is ``ahead_ms`` ahead."""
    ahead_ms = fields.pop("ahead_ms", 0)

    def answer(*_):
        time_ms = SystemClock.now_ms() + ahead_ms
        return 200, msgspec.json.encode(description_of(**fields, time_ms=time_ms)).decode()

    return answer


def test_the_nodes_are_shown_in_a_table_of_at_most_80_columns(make, components, original):
    node, ready, draining = make("own"), make("two"), make("three")
    for each, node_id in ((ready, "2"), (draining, "3")):
        each.edit("comm", node__id=node_id)
        each.start()
    draining.command("drain")
    wait_until(lambda: draining.describe()["draining"])
    node.write("nodes", {
        "2": entry(ready.rest),
        "3": entry(draining.rest),
        "4": entry(original.port, peer="original"),
        "5": entry(free_port()),
    })  # fmt: skip
    result = node.command("nodes")
    assert (result.returncode, result.stderr) == (1, "")
    head, *rows = result.stdout.splitlines()
    assert head.split() == [
        "NODE", "PROGRAM", "STATE", "LOAD", "WAIT", "CLOCK", "SENT", "DOUBT", "LAST",
    ]  # fmt: skip
    assert re.fullmatch(r"2 +fractal-rm \S+ +ready +0 +0 +[-+]?0\.\d+ s +0 +0 +-", rows[0])
    assert re.fullmatch(r"3 +fractal-rm \S+ +draining +0 +0 +[-+]?0\.\d+ s +0 +0 +-", rows[1])
    assert re.fullmatch(r"4 +original +answers +- +- +- +0 +0 +-", rows[2])
    assert re.fullmatch(r"5 +- +not reached +- +- +- +0 +0 +-", rows[3])
    assert max(map(len, [head, *rows[:4]])) <= 80
    assert rows[4].endswith("the original Runtime Manager, which does not describe itself")
    assert rows[5].endswith("/startrm: connection refused")
    assert len(rows) == 6


def test_the_command_exits_0_if_every_node_is_reached_even_if_one_drains(make, original):
    node, draining = make("own"), make("two")
    draining.edit("comm", node__id="2")
    draining.start()
    draining.command("drain")
    wait_until(lambda: draining.describe()["draining"])
    node.write("nodes", {"2": entry(draining.rest), "4": entry(original.port)})
    code, by_id = nodes_of(node)
    assert code == 0
    assert (by_id["2"]["reachable"], by_id["2"]["description"]["draining"]) == (True, True)
    assert (by_id["4"]["program"], by_id["4"]["description"]) == ("original", None)


def test_without_nodes_the_command_says_so(make):
    result = make().command("nodes")
    assert (result.returncode, result.stdout) == (0, "nodes.conf has no nodes\n")


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        ((401, '{"detail": "this token is not known here"}'), "error 401",
         "the answer is 401: this token is not known here"),
        ((403, "no"), "error 403", "the answer is 403: no"),
        ((404, "<html>"), "error 404", "the answer is 404: <html>"),
        ((502, ""), "error 502", "the answer is 502"),
        ((200, "hello"), "error 200", "the answer is 200: hello"),
        ((200, '{"kind": "other"}'), "error 200", 'the answer is 200: {"kind": "other"}'),
        ((200, "9" * 5_000), "error 200", "the answer is 200: 999"),
        ("close", "not reached", "closed"),
        ("garbage", "not reached", "not HTTP"),
        ("hang", "no answer", "no answer within the time limit"),
    ],
)  # fmt: skip
def test_a_node_that_does_not_describe_itself_is_shown_with_the_reason(
    make, components, answer, state, reason
):
    node = make()
    components.answers["/peer"] = answer
    node.write("nodes", {"2": entry(components.port, "peer", timeout_s=0.3)})
    text = node.command("nodes").stdout
    row, why = text.splitlines()[1:]
    assert f"  {state}  " in row
    assert why.startswith(f"node 2, http://127.0.0.1:{components.port}/peer: ")
    assert reason in why
    code, by_id = nodes_of(node)
    assert (code, by_id["2"]["reachable"]) == (1, False)
    assert reason in by_id["2"]["reason"]


def test_an_older_release_of_this_program_counts_as_reached(make, components):
    node = make()
    components.answers["/peer"] = (
        405, '{"type": "about:blank"}', {"Content-Type": "application/problem+json"},
    )  # fmt: skip
    node.write("nodes", {"2": entry(components.port, "peer")})
    code, by_id = nodes_of(node)
    assert (code, by_id["2"]["reachable"], by_id["2"]["program"]) == (0, True, "fractal-rm")
    assert "an older release of this program" in node.command("nodes").stdout


@pytest.mark.parametrize(
    ("to_post", "is_reachable"), [((400, '{"type": "urn:fractal-rm:malformed"}'), True),
                                  ((403, '{"type": "urn:fractal-rm:peer-refused"}'), False),
                                  ((400, "bad"), False)],
)  # fmt: skip
def test_an_older_release_that_refuses_the_question_counts_as_reached_if_it_reads_a_post(
    make, components, to_post, is_reachable
):
    node = make()
    problem = {"Content-Type": "application/problem+json"}

    def answer(handler, _):
        refusal = (403, '{"type": "urn:fractal-rm:peer-refused"}', problem)
        return refusal if handler.command == "GET" else (*to_post, problem)

    components.answers["/peer"] = answer
    node.write("nodes", {"2": entry(components.port, "peer")})
    code, by_id = nodes_of(node)
    assert (code == 0, by_id["2"]["reachable"]) == (is_reachable, is_reachable)


def test_a_node_whose_certificate_is_not_trusted_is_shown_with_the_reason(make, tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    node, other = make("own"), make("two")
    files = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    other.edit("comm", node__id="2", rest__tls=files)
    other.start()
    node.write("nodes", {"2": entry(other.rest, protocol="https")})
    assert "the certificate of the server is not trusted" in node.command("nodes").stdout
    tls = {"ca": str(tmp_path / "ca.pem")}
    node.write("nodes", {"2": entry(other.rest, protocol="https", tls=tls)})
    assert nodes_of(node)[0] == 0


def test_the_token_of_nodes_conf_is_sent(make):
    node, other = make("own"), make("two")
    other.edit("comm", node__id="2")
    other.start()
    token = other.command("token", "new", "n", "--scope", "trigger").stdout.strip()
    node.write("nodes", {"2": entry(other.rest, token=token)})
    assert nodes_of(node)[0] == 0
    other.command("token", "revoke", "n")
    code, by_id = nodes_of(node)
    assert (code, by_id["2"]["status"]) == (1, 401)
    assert "it is wrong, or it was revoked" in by_id["2"]["reason"]


@pytest.mark.parametrize("ahead_ms", [3_600_000, -7_200_000, 0])
def test_the_clock_of_each_node_is_compared_with_the_clock_here(make, components, ahead_ms):
    node = make()
    components.answers["/peer"] = describing(node_id="2", ahead_ms=ahead_ms)
    node.write("nodes", {"2": entry(components.port, "peer")})
    _, by_id = nodes_of(node)
    offset_ms, uncertain_ms = (by_id["2"][key] for key in ("clock_offset_ms", "clock_uncertain_ms"))
    assert abs(offset_ms - ahead_ms) <= uncertain_ms + 1
    if ahead_ms > 0:
        assert "  +1 h  " in node.command("nodes").stdout


def test_a_node_with_another_id_than_in_nodes_conf_causes_a_warning(make, components):
    node = make()
    node.edit("comm", node__id="1")
    components.answers["/wrong"] = describing(node_id="7")
    components.answers["/own"] = describing(node_id="1")
    node.write("nodes", {"2": entry(components.port, "wrong"), "3": entry(components.port, "own")})
    result = node.command("nodes")
    assert result.returncode == 1
    warnings = [line for line in result.stdout.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: node 2: the node at this address has the id 7",
        "warning: node 3: the node at this address has the id 1, the id of this node",
    ]


def test_an_id_that_two_nodes_use_causes_a_warning(make, components):
    node = make()
    components.answers["/2"] = describing(node_id="2", store="a")
    components.answers["/3"] = describing(node_id="2", store="b")
    node.write("nodes", {each: entry(components.port, each) for each in ("2", "3")})
    _, by_id = nodes_of(node)
    assert by_id["2"]["warnings"] == []
    assert "the id is used twice" in by_id["3"]["warnings"][1]


def test_the_last_hand_offs_are_counted_without_a_running_node(make, components):
    receiver, node = make("receiver"), make("sender", balancer=components.port)
    receiver.edit("comm", node__id="2")
    receiver.start()
    node.add_peer(receiver)
    node.start()
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    for _ in range(3):
        assert node.outcome("1")["state"] == "handed-off"
    newest_ms = max(run.settled_ms for run in node.runs(State.HANDED_OFF))
    add_doubtful_peer(node, components)
    wait_until(lambda: node.log.count("config_applied") > 0)
    run_in_doubt(node)
    node.stop()
    code, by_id = nodes_of(node)
    assert code == 0
    assert by_id["2"]["hand_offs"] == {"sent": 3, "last_ms": newest_ms, "in_doubt": 1}
    row = node.command("nodes").stdout.splitlines()[1]
    assert re.search(r"  3     1      \d\d:\d\d$", row)


def test_all_nodes_are_asked_at_the_same_time(make, components):
    """Each of 30 nodes answers only when all of them were asked."""
    node = make()
    together = threading.Barrier(30)
    answered = set()

    def answer(handler, _):
        if handler.path not in answered:  # the second question is about the clock only
            answered.add(handler.path)
            together.wait(60)
        return describing(node_id=handler.path[1:])()

    ids = [str(number) for number in range(2, 32)]
    for each in ids:
        components.answers[f"/{each}"] = answer
    node.write("nodes", {each: entry(components.port, each) for each in ids})
    code, by_id = nodes_of(node)
    assert (code, len(by_id)) == (0, 30)


def test_a_journal_that_cannot_be_read_is_reported_after_the_nodes(make, components):
    node = make()
    components.answers["/peer"] = describing(node_id="2")
    node.write("nodes", {"2": entry(components.port, "peer")})
    node.state.mkdir()
    (node.state / "api.journal").write_bytes(b"this is not a journal" * 500)
    result = node.command("nodes")
    assert "fractal-rm 1.0" in result.stdout
    assert "some hand-offs are not counted" in result.stderr


def test_an_address_that_drops_packets_takes_at_most_five_seconds(make):
    """The queue of the listening socket is full, so further connections get no answer."""
    node = make()
    with socket.create_server((HOST, free_port()), backlog=0) as full:
        port = full.getsockname()[1]
        held = [socket.socket() for _ in range(3)]
        try:
            for each in held:
                each.setblocking(False)
                each.connect_ex((HOST, port))
            node.write("nodes", {"2": entry(port, timeout_s=600, connect_timeout_s=600)})
            code, by_id = nodes_of(node)
        finally:
            for each in held:
                each.close()
    assert (code, by_id["2"]["reachable"]) == (1, False)
    assert by_id["2"]["reason"] == "no answer within 5.0 s"


def test_another_machine_with_the_id_of_this_node_causes_a_warning_but_this_node_does_not(make):
    node, other = make("own"), make("two")
    for each in (node, other):
        each.edit("comm", node__id="1")
        each.start()
    node.write("nodes", {"1": entry(node.rest)})
    assert nodes_of(node)[0] == 0
    node.write("nodes", {"1": entry(other.rest)})
    code, by_id = nodes_of(node)
    assert code == 1
    assert by_id["1"]["warnings"] == [
        "it has the id 1, which is also the id of this node: the id is used twice"
    ]


def test_the_own_entry_of_a_node_is_no_problem_if_nothing_answers_at_its_address(make, components):
    node = make("own")
    node.edit("comm", node__id="1")
    components.answers["/own"] = (404, "<html>")
    node.write("nodes", {"1": entry(components.port, "own")})
    result = node.command("nodes")
    assert (result.returncode, result.stderr) == (0, "")
    row, why = result.stdout.splitlines()[1:]
    assert re.fullmatch(r"1 +- +this node +- +- +- +0 +0 +-", row)
    assert why.endswith("/own: the entry of this node itself; no run is sent to this address")
    node.write("nodes", {"1": entry(components.port, "own"), "2": entry(free_port())})
    code, by_id = nodes_of(node)
    assert code == 1
    assert {key: each["this_node"] for key, each in by_id.items()} == {"1": True, "2": False}


def test_the_nodes_are_sorted_by_their_ids_with_numbers_first(make):
    node = make()
    node.write("nodes", {each: entry(free_port()) for each in ("10", "b", "9", "a1")})
    ordered = ["9", "10", "a1", "b"]
    _, by_id = nodes_of(node)
    assert list(by_id) == ordered
    rows = node.command("nodes").stdout.splitlines()[1:5]
    assert [row.split()[0] for row in rows] == ordered

"""Machines that are not permitted to offer runs, and offers that are not what they seem.

Node 1 recognizes its clients by tokens, and node 2 by certificates (mutual TLS). The rogue client
is on the machine of the other node.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import ssl
from contextlib import contextmanager

import pytest
import trustme

import programs
from components import Components
from fractal_rm.domain.facts import OfferInDoubt
from fractal_rm.domain.state import State
from links.pair import joined_pair
from machine_access import new_token
from machines import machine
from nodes import wait_until
from sites import FIRST, SECOND, assert_handed_off

RUN = "01M87NTQZMXFEQPS51973PM0F5"
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    machines = machine(f"{FIRST}/24"), machine(f"{SECOND}/24")
    with joined_pair(machines, tmp_path_factory.mktemp("pair"), offer_limit_s=20) as joined:
        joined.set_access(by_certificate=joined.sites[1])
        joined.start()
        yield joined
        joined.stop_without_problems()


@pytest.fixture
def first(pair):
    return pair.sites[0]


@pytest.fixture
def second(pair):
    return pair.sites[1]


def offer_of(site, flow: str = "1", **keys) -> dict[str, object]:
    """An offer that is addressed to the present boot of a node."""
    me = site.machine.call(site.node.get, "/v1/node")[2]
    return {
        "id_flow": flow, "is_load_balancing": True, "payload": "p", "run": RUN, "epoch": 1,
        "sender": "2" if me["node"] == "1" else "1", "store": me["store"], "boot": me["boot"],
        **keys,
    }  # fmt: skip


def answer(site, caller, offer, token: str | None = None, context=None):
    """Send an offer to a node from the other machine. Returns the status and the answer."""

    def ask():
        if context is None:
            connection = http.client.HTTPConnection(site.host, site.node.rest, timeout=20)
        else:
            connection = http.client.HTTPSConnection(
                site.host, site.node.rest, timeout=20, context=context
            )
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request("POST", "/startrm", json.dumps(offer).encode(), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    return caller.machine.call(ask)


@contextmanager
def nothing_runs(site):
    """Assert that the node accepts no run in the block, and that it then takes runs as before."""
    runs, calls = len(site.node.runs()), len(site.components.requests)
    yield
    assert len(site.node.runs()) == runs
    assert len(site.components.requests) == calls


# --- tokens -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens(pair):
    """Tokens of the first node, by what is wrong with them."""
    first = pair.sites[0]
    made = {
        "wrong scope": new_token(first, "reader", "read"),
        "revoked": new_token(first, "revoked", "trigger"),
        "expired": new_token(first, "expired", "trigger"),
        "good": new_token(first, "good", "trigger"),
    }
    programs.run_text("token", "revoke", "revoked", "--config", first.node.config)
    path = first.node.state / "tokens.json"
    content = json.loads(path.read_text())
    for each in content:
        if each["name"] == "expired":
            each["expires_ms"] = each["created_ms"]
    path.write_text(json.dumps(content))
    return {"none": None, "unknown": "frm_" + 43 * "A", "not a token": "", **made}


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("none", 401, "unauthenticated"),
        ("not a token", 401, "unauthenticated"),
        ("unknown", 401, "unauthenticated"),
        ("revoked", 401, "unauthenticated"),
        ("expired", 401, "unauthenticated"),
        ("wrong scope", 403, "missing-scope"),
    ],
)
def test_an_offer_without_a_valid_token_is_refused_and_learns_nothing_about_flows(
    first, second, tokens, fault, status, code
):
    with nothing_runs(first):
        known, unknown = (
            answer(first, second, offer_of(first, flow), tokens[fault]) for flow in ("1", "99")
        )
    assert known == unknown
    assert (known[0], known[1]["type"]) == (status, f"urn:fractal-rm:{code}")
    assert known[1]["detail"]


def test_the_token_of_a_node_is_not_valid_on_another_node(first, second, tokens):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with nothing_runs(second):
        status, _ = answer(second, first, offer_of(second), tokens["good"], context)
    assert status == 401


# --- certificates -------------------------------------------------------------------------------


def tls_context(authority: trustme.CA | None, name: str, **times) -> ssl.SSLContext:
    """The context of a client that trusts every server, and has a certificate for ``name``."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if authority is not None:
        authority.issue_cert(name, **times).configure_cert(context)
    return context


def test_an_offer_without_a_certificate_is_refused(first, second):
    with nothing_runs(second):
        status, problem = answer(second, first, offer_of(second), context=tls_context(None, ""))
    assert (status, problem["type"]) == (401, "urn:fractal-rm:unauthenticated")


def test_a_certificate_of_a_machine_that_is_not_in_nodes_conf_is_refused(pair, first, second):
    context = tls_context(pair.authority, "stranger.example")
    with nothing_runs(second):
        status, problem = answer(second, first, offer_of(second), context=context)
    assert (status, problem["type"]) == (403, "urn:fractal-rm:peer-refused")


@pytest.mark.parametrize("fault", ["other authority", "expired"])
def test_a_connection_with_an_invalid_certificate_is_not_made(pair, first, second, fault):
    context = (
        tls_context(trustme.CA(), FIRST)
        if fault == "other authority"
        else tls_context(pair.authority, FIRST, not_before=LONG_AGO, not_after=LONG_AGO)
    )
    with nothing_runs(second), pytest.raises((ssl.SSLError, ConnectionError)):
        answer(second, first, offer_of(second), context=context)


def test_a_request_without_tls_is_not_answered(first, second):
    with nothing_runs(second), pytest.raises((http.client.HTTPException, ConnectionError)):
        answer(second, first, offer_of(second))


# --- offers that are repeated, too large or forged ------------------------------------------------


def test_a_replayed_offer_gets_the_same_receipt_and_is_executed_once(first, second, tokens):
    offer = offer_of(first)
    receipts = [answer(first, second, offer, tokens["good"]) for _ in range(3)]
    assert [(status, reply["run"], reply["epoch"]) for status, reply in receipts] == [
        (200, RUN, 1)
    ] * 3
    first.wait_for_state(RUN, State.SUCCEEDED)
    with nothing_runs(first):  # a later offer of the same run is a copy, too
        status, reply = answer(first, second, {**offer, "epoch": 2}, tokens["good"])
    assert (status, reply["run"], reply["epoch"]) == (200, RUN, 2)
    assert first.executions(RUN) == 1


def test_an_offer_for_an_earlier_start_of_the_node_is_refused(first, second, tokens):
    offer = offer_of(first, run=RUN.replace("5", "6"), boot="an earlier one")
    with nothing_runs(first):
        status, problem = answer(first, second, offer, tokens["good"])
    assert (status, problem["type"]) == (409, "urn:fractal-rm:other-boot")


def test_an_oversized_offer_is_refused(first, second, tokens):
    offer = offer_of(first, run=RUN.replace("5", "7"), payload="x" * 300_000)
    with nothing_runs(first):
        status, problem = answer(first, second, offer, tokens["good"])
    assert (status, problem["type"]) == (413, "urn:fractal-rm:too-large")


def test_a_node_without_a_valid_certificate_gets_no_offer(pair, first, second, tmp_path):
    """A rogue listens at the address of a node. Its certificate is of another authority."""
    rogue = second.machine.call(Components, SECOND)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(SECOND).configure_cert(context)
    rogue.socket = context.wrap_socket(rogue.socket, server_side=True)
    keys = first.node.read("nodes")["2"]["config"]
    run = run_on_rogue(first, rogue, **{**keys, "port": rogue.port})
    first.wait_for_state(run, State.SUCCEEDED)
    assert first.executions(run) == 1
    assert rogue.requests == []
    rogue.stop()


def test_a_receipt_for_another_run_or_epoch_is_not_accepted(first, second):
    """A rogue describes itself as a node, and gives receipts that do not match the offer."""
    rogue = second.machine.call(Components, SECOND)
    me = second.machine.call(second.node.get, "/v1/node")[2]
    refuses = False

    def answer_offer(handler, body):
        if handler.command == "GET":
            return 200, json.dumps(me)
        offer = json.loads(body)
        if refuses:
            problem = {"type": "urn:fractal-rm:busy", "run": offer["run"], "epoch": offer["epoch"]}
            return 503, json.dumps(problem)
        return 200, json.dumps({"run": offer["run"], "epoch": offer["epoch"] + 1})

    rogue.answers["/startrm"] = answer_offer
    run = run_on_rogue(first, rogue, ip=SECOND, port=rogue.port, peer="fractal")
    facts = wait_until(lambda: [
        each.fact.reason for each in first.node.history.run(run).facts
        if isinstance(each.fact, OfferInDoubt)
    ])  # fmt: skip
    assert facts == ["node 3 gave no receipt"]
    assert first.executions(run) == 0
    refuses = True
    first.wait_for_state(run, State.SUCCEEDED)
    assert first.executions(run) == 1
    rogue.stop()


def run_on_rogue(site, rogue, **node_keys) -> str:
    """Let the balancer place a run on the rogue, as node 3. Returns the id of the run."""
    applied = site.node.log.count(" config_applied ")
    nodes = site.node.read("nodes")
    address = {"protocol": "http", "endpoint": "startrm", **node_keys}
    site.node.write("nodes", {**nodes, "3": {"id": "3", "config": address}})
    wait_until(lambda: site.node.log.count(" config_applied ") > applied)
    site.set_balancer("3")
    run = site.send_trigger()
    wait_until(lambda: site.node.history.run(run).summary.node == "3")
    site.set_balancer("2")
    return run


def test_the_nodes_still_hand_runs_over_to_each_other(first, second):
    assert_handed_off(first, second)
    assert_handed_off(second, first)

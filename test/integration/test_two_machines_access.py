"""Two nodes on two machines recognize each other by a token and by a certificate (mutual TLS).

The first node has tokens. The second node has TLS, and asks its clients for a certificate.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from types import SimpleNamespace

import pytest
import trustme

import programs
from fractal_rm.domain.state import State
from machine_access import new_token, write_certificate
from machines import connect, machine
from sites import BODY, FIRST, SECOND, Site, assert_handed_off


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    folder, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    first_machine, second_machine = machine(f"{FIRST}/24"), machine(f"{SECOND}/24")
    with connect(first_machine, second_machine):
        first = Site(first_machine, tmp_path_factory.mktemp("first"), FIRST, "1")
        second = Site(second_machine, tmp_path_factory.mktemp("second"), SECOND, "2")
        second.node.edit("comm", rest__tls=write_certificate(authority, folder, SECOND))
        token = new_token(first, "node-2", "trigger")
        (folder / "token").write_text(f"{token}\n")
        for site in (first, second):
            site.node.add_peer(
                first.node, "1", ip=FIRST, peer="fractal", token=f"${{file:{folder}/token}}"
            )
            site.node.add_peer(
                second.node, "2", ip=SECOND, peer="fractal", protocol="https",
                tls=write_certificate(authority, folder, FIRST),
            )  # fmt: skip
        for site in (first, second):
            site.machine.call(site.node.start)
        yield SimpleNamespace(first=first, second=second, authority=authority, folder=folder)
        first.end()
        second.end()


@pytest.mark.parametrize(("sender", "receiver"), [("first", "second"), ("second", "first")])
def test_a_run_is_handed_off_by_certificate_and_by_token(sites, sender, receiver):
    assert_handed_off(getattr(sites, sender), getattr(sites, receiver))


def nodes_seen_from(site: Site) -> dict[str, dict]:
    """Run `nodes --json` on the machine of a site. Returns the nodes by id."""
    words = [*programs.COMMAND, "nodes", "--json", "--config", str(site.node.config)]
    done = site.machine.call(subprocess.run, words, capture_output=True, text=True)
    assert done.stderr == ""
    return {each["id"]: each for each in json.loads(done.stdout)["nodes"]}


def test_each_node_sees_the_other_by_token_and_by_certificate(sites):
    for site, other_id in ((sites.first, "2"), (sites.second, "1")):
        seen = nodes_seen_from(site)[other_id]
        assert seen["reason"] is None
        assert (seen["reachable"], seen["description"]["node"]) == (True, other_id)


def test_a_node_cannot_drain_another_by_its_token_or_certificate(sites):
    headers = {"Content-Type": "application/json"}
    token = (sites.folder / "token").read_text().strip()
    status, body = sites.first.answer_to(
        sites.second, "PUT", "/v1/node/draining", b"true",
        {**headers, "Authorization": f"Bearer {token}"},
    )  # fmt: skip
    assert (status, json.loads(body)["type"]) == (403, "urn:fractal-rm:missing-scope")
    status, problem = answer_over_tls(sites, FIRST, "PUT", "/v1/node/draining", b"true")
    assert (status, problem["type"]) == (403, "urn:fractal-rm:missing-scope")


def answer_over_tls(
    sites, name: str | None, method: str = "POST", path: str = "/startrm", body: bytes = BODY
):
    """Send a request to the second node with a certificate for ``name``. Returns the status."""
    context = ssl.create_default_context(cafile=str(sites.folder / f"{SECOND}-ca.pem"))
    if name is not None:
        sites.authority.issue_cert(name).configure_cert(context)

    def ask():
        port = sites.second.node.rest
        connection = http.client.HTTPSConnection(SECOND, port, timeout=20, context=context)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    return sites.first.machine.call(ask)


def test_a_certificate_of_a_machine_that_is_not_a_node_is_refused(sites):
    status, problem = answer_over_tls(sites, "stranger.example")
    assert status == 403
    assert problem["detail"] == (
        "its certificate is for stranger.example, which is not in nodes.conf"
    )


def test_a_client_without_a_certificate_is_refused(sites):
    assert answer_over_tls(sites, None)[0] == 403


def test_a_client_without_a_token_or_with_a_wrong_token_is_refused(sites):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        headers["Content-Type"] = "application/json"
        status, body = sites.first.answer_to(sites.second, "POST", "/startrm", BODY, headers)
        assert (status, json.loads(body)["title"]) == (401, "This client is not known")


def test_after_the_token_is_revoked_a_run_is_executed_by_the_node_that_accepted_it(sites):
    programs.run_text("token", "revoke", "node-2", "--config", sites.first.node.config)
    sites.second.set_balancer("1")
    details = sites.second.wait_for_state(sites.second.send_trigger(), State.SUCCEEDED)
    text = str(details.facts)
    assert "node 1 refused the run (401): it does not know the token of this node; join the" in text
    assert "join the two nodes again, or remove node 1 here, too" in text

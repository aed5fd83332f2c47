"""Access control by the address of the client, and the log of refusals."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from fractal_rm.config.model import Rest
from fractal_rm.domain.access import THIS_MACHINE, Identity, Scope
from fractal_rm.domain.address import read_network
from fractal_rm.domain.pairing import INVITED
from fractal_rm.web.access import MAX_UNTRUSTED, Access, ClientKind, NoTokens
from fractal_rm.web.head import read_head
from fractal_rm.web.peer_refusals import LOG_INTERVAL_S, MAX_PEERS, PeerRefusals
from fractal_rm.web.problems import Problem


class RecordingTelemetry:
    """Telemetry that stores its log lines."""

    def __init__(self):
        self.lines = []

    def problem(self, name, **fields):
        self.lines.append((name, fields))


@pytest.fixture
def log():
    return RecordingTelemetry()


def access_control(
    *trusted: str, endpoint: str = "/startrm", names=("edge-1",), log=None, tokens=None
) -> Access:
    rest = Rest(endpoint, "10.1.0.1", 5000, tuple(map(read_network, trusted)))
    refusals = PeerRefusals(log or RecordingTelemetry(), lambda: 0.0)
    return Access(rest, lambda: names, refusals, tokens or NoTokens(), lambda: {"edge-2": "2"})


def request_head(line: str, host: str = "localhost", **fields: str):
    method, target = line.encode().split(b" ")
    encoded_fields = [
        (name.encode(), value.encode()) for name, value in {"host": host, **fields}.items()
    ]
    return read_head(method, target, "1.1", encoded_fields)


def status(checked) -> int:
    return checked.status if isinstance(checked, Problem) else 200


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", ClientKind.LOCAL),
        ("127.9.9.9", ClientKind.LOCAL),
        ("::1", ClientKind.LOCAL),
        ("::ffff:127.0.0.1", ClientKind.LOCAL),
        ("10.1.0.2", ClientKind.PEER),
        ("::ffff:10.1.0.2", ClientKind.PEER),
        ("fd00::7", ClientKind.PEER),
        ("fe80::5%eth0", ClientKind.PEER),
        ("10.1.1.2", ClientKind.UNTRUSTED),
        ("::ffff:10.1.1.2", ClientKind.UNTRUSTED),
        ("::10.1.0.2", ClientKind.UNTRUSTED),
        ("fd00:0:0:1::7", ClientKind.UNTRUSTED),
        ("", ClientKind.UNTRUSTED),  # disconnected before the address was read
    ],
)
def test_a_client_is_classified_by_its_address_in_any_notation(address, kind):
    control = access_control("10.1.0.0/24", "fd00::/64", "fe80::5")
    assert control.connected(address, "10.1.0.1").kind is kind


@pytest.mark.parametrize("mapped", ["::ffff:10.1.0.0/24", "::ffff:0:0/95"])
def test_an_ipv4_range_in_ipv6_notation_is_refused(mapped):
    with pytest.raises(ValueError, match="write its range as IPv4"):
        read_network(mapped)


def test_an_untrusted_client_is_counted_while_it_is_connected():
    control = access_control("10.1.0.2")
    clients = [control.connected(a, "10.1.0.1") for a in ("10.1.0.2", "10.1.0.3", "127.0.0.1")]
    assert control.untrusted_connections == 1
    for client in clients:
        client.disconnected()
    assert control.untrusted_connections == 0


def test_a_peer_may_post_to_the_endpoint_and_get_it_but_nothing_else():
    control = access_control("10.1.0.2")
    peer = control.connected("10.1.0.2", "10.1.0.1")
    for line in ("POST /startrm", "GET /startrm", "HEAD /startrm", "GET /startrm/?a"):
        assert status(peer.check(request_head(line))) == 200
    for line in ("PUT /startrm", "DELETE /startrm", "GET /v1/node", "GET /v1/runs", "GET /readyz",
                 "PUT /v1/node/draining", "POST /v1/runs/R/resolve"):  # fmt: skip
        assert status(peer.check(request_head(line))) == 403


@pytest.mark.parametrize(
    ("line", "scopes"),
    [
        ("GET /v1/node", "read trigger"),
        ("HEAD //v1//node/", "read trigger"),
        ("GET /startrm", "read trigger"),
        ("GET /v1/node/draining", "read"),
        ("GET /v1/runs/R/resolve", "read"),
        ("PUT /v1/node/draining", "operate"),
        ("PUT //v1/node//draining/", "operate"),
        ("PUT /v1/n%6Fde/draining?x", "operate"),
        ("POST http://localhost/v1/node/draining", "operate"),
        ("POST /v1/runs/R/resolve", "operate"),
        ("POST /v1/runs/R/resolve/", "operate"),
        ("POST /v1//runs/R/r%65solve?x=1", "operate"),
        ("POST /v1/runs/a%2Fb/resolve", "operate"),
        ("POST /startrm", "trigger"),
        ("POST /v1/flows/resolve/runs", "trigger"),
        ("GET /v1/runs", "read"),
    ],
)
def test_each_request_needs_one_of_its_scopes(line, scopes):
    head = request_head(line, authorization="Bearer t")
    allowed = {
        scope
        for scope in Scope
        if status(client_with_token(scope).check(head)) == 200 and scope is not Scope.ADMIN
    }
    assert allowed == {Scope(scope) for scope in scopes.split()}
    assert status(client_with_token(Scope.ADMIN).check(head)) == 200


def client_with_token(scope: Scope):
    """A client on loopback that sends a token with one scope."""
    identity = Identity("token t", frozenset({scope}))
    tokens = SimpleNamespace(has_tokens=True, identify=lambda _: identity)
    return access_control(tokens=tokens).connected("127.0.0.1", "127.0.0.1")


def test_a_program_on_this_machine_needs_a_token_to_operate_the_node():
    local = access_control().connected("127.0.0.1", "127.0.0.1")
    for line in ("PUT /v1/node/draining", "POST /v1/runs/R/resolve"):
        refused = local.check(request_head(line))
        assert refused.status == 403
        assert "this request needs the scope operate; this machine has" in refused.detail
        assert "send a token with that scope" in refused.detail


@pytest.mark.parametrize(
    "target", ["/startrm", "/startrm?a=/v1", "/%73tartrm", "http://localhost/startrm"]
)
def test_a_peer_may_write_the_url_of_the_endpoint_in_any_notation(target):
    control = access_control("10.1.0.2")
    peer = control.connected("10.1.0.2", "10.1.0.1")
    assert status(peer.check(request_head(f"POST {target}"))) == 200


def test_without_trusted_peers_only_loopback_hosts_are_accepted():
    control = access_control(names=("edge-1",))
    local = control.connected("127.0.0.1", "127.0.0.1")
    for host, expected_status in [("localhost:5000", 200), ("127.0.0.1", 200), ("[::1]:5000", 200),
                           ("edge-1", 421), ("10.1.0.1", 421)]:  # fmt: skip
        assert status(local.check(request_head("GET /v1/runs", host))) == expected_status


def test_a_name_that_was_removed_from_nodes_conf_is_no_longer_accepted():
    names = {"edge-1"}
    control = access_control("10.1.0.2", names=names)
    local = control.connected("127.0.0.1", "127.0.0.1")
    assert status(local.check(request_head("GET /v1/runs", "edge-1"))) == 200
    names.clear()
    control.reconfigured()
    assert status(local.check(request_head("GET /v1/runs", "edge-1"))) == 421


def test_the_host_of_this_node_in_nodes_conf_is_accepted():
    control = access_control("10.1.0.2", names=("edge-1", "203.0.113.5"))
    peer = control.connected("10.1.0.2", "10.1.0.1")
    for host, expected_status in [("203.0.113.5:80", 200), ("10.1.0.1", 200), ("203.0.113.6", 421)]:
        assert status(peer.check(request_head("POST /startrm", host))) == expected_status


def test_a_request_whose_origin_is_not_this_machine_is_refused():
    local = access_control().connected("127.0.0.1", "127.0.0.1")
    for origin, expected_status in [("http://localhost:8080", 200), ("http://evil.example", 421),
                             ("null", 421), ("http://localhost.evil.example", 421),
                             ("http://evil@localhost", 421)]:  # fmt: skip
        assert status(local.check(request_head("GET /", origin=origin))) == expected_status


def test_refusals_of_a_peer_are_logged_once_a_minute_with_their_count(log):
    clock_s = [0.0]
    refusals = PeerRefusals(log, lambda: clock_s[0])
    for _ in range(3):
        refusals.note("10.1.0.9", "GET /", "why")
    refusals.note("10.1.0.8", "GET /", "why")
    clock_s[0] = LOG_INTERVAL_S
    refusals.note("10.1.0.9", "GET /", "why")
    assert [(f["peer"], f["requests"], f["total"]) for _, f in log.lines] == [
        ("10.1.0.9", 1, 1), ("10.1.0.8", 1, 4), ("10.1.0.9", 3, 5),
    ]  # fmt: skip


def test_peers_that_do_not_fit_into_the_table_are_logged_together(log):
    clock_s = [0.0]
    refusals = PeerRefusals(log, lambda: clock_s[0])
    for number in range(MAX_PEERS + 1_000):
        refusals.note(f"fd00::{number:x}", "GET /", "why")
    assert len(log.lines) == MAX_PEERS + 1
    assert log.lines[-1][1]["peer"] == "others"
    assert refusals.total == MAX_PEERS + 1_000
    clock_s[0] = LOG_INTERVAL_S
    refusals.note("fd00::ffff", "GET /", "why")
    assert log.lines[-1][1]["peer"] == "fd00::ffff"


class OneToken:
    """Port `Authenticator` with one valid token."""

    has_tokens = True

    def warnings(self) -> list[str]:
        return []

    def __init__(self, *scopes: Scope) -> None:
        self._scopes = frozenset(scopes)

    def identify(self, token: str) -> Identity | str:
        return Identity("token t", self._scopes) if token == "t" else "it is wrong"


def with_token(line: str, token: str = "t", host: str = "10.1.0.1"):
    return request_head(line, host, authorization=f"Bearer {token}")


def test_a_token_allows_another_machine_what_its_scopes_say():
    access = access_control(tokens=OneToken(Scope.READ))
    client = access.connected("10.9.0.9", "10.1.0.1")
    assert client.check(with_token("GET /v1/runs")) == Identity("token t", frozenset({Scope.READ}))
    assert status(client.check(with_token("POST /startrm"))) == 403
    assert status(client.check(with_token("GET /v1/runs", "x"))) == 401
    assert status(client.check(request_head("GET /v1/runs", "10.1.0.1"))) == 401


def test_a_machine_without_a_token_is_told_nothing_about_its_request():
    client = access_control(tokens=OneToken(Scope.READ)).connected("10.9.0.9", "10.1.0.1")
    for line in ("GET /v1/runs", "CONNECT x", "GET http://[", "POST /startrm"):
        problem = client.check(request_head(line, "evil"))
        assert problem.status == 401
        assert problem.detail == "send a token: Authorization: Bearer TOKEN"


def test_a_connection_with_a_valid_token_is_not_counted_as_untrusted():
    access = access_control(tokens=OneToken(Scope.READ))
    client = access.connected("10.9.0.9", "10.1.0.1")
    assert access.untrusted_connections == 1
    client.check(with_token("GET /", "x"))
    assert access.untrusted_connections == 1
    client.check(with_token("GET /"))
    client.check(with_token("GET /"))
    assert access.untrusted_connections == 0
    assert status(client.check(request_head("GET /", "10.1.0.1"))) == 401  # each request needs it
    client.disconnected()
    assert access.untrusted_connections == 0


def test_above_the_limit_the_oldest_untrusted_connection_is_closed(log):
    access, closed = access_control(tokens=OneToken(Scope.READ), log=log), []
    clients = [
        access.connected("10.9.0.9", "10.1.0.1", (), partial(closed.append, number))
        for number in range(MAX_UNTRUSTED)
    ]
    access.limit_untrusted()
    assert closed == []
    clients[0].check(with_token("GET /"))  # this client is not untrusted any more
    clients[2].disconnected()
    for number in range(MAX_UNTRUSTED, MAX_UNTRUSTED + 4):
        access.connected("10.9.0.9", "10.1.0.1", (), partial(closed.append, number))
        access.limit_untrusted()
    assert closed == [1, 3]
    assert access.untrusted_connections == MAX_UNTRUSTED
    assert log.lines[0][1]["asked"] == "a connection"


def test_a_trusted_peer_with_a_token_has_the_scopes_of_the_token():
    access = access_control("10.1.0.2", tokens=OneToken(Scope.READ))
    peer = access.connected("10.1.0.2", "10.1.0.1")
    assert status(peer.check(request_head("GET /v1/runs", "10.1.0.1"))) == 403
    assert status(peer.check(with_token("GET /v1/runs"))) == 200
    assert status(peer.check(with_token("POST /startrm"))) == 403


def test_on_this_machine_a_wrong_token_is_refused_and_other_schemes_are_ignored(log):
    local = access_control(tokens=OneToken(), log=log).connected("127.0.0.1", "127.0.0.1")
    assert status(local.check(request_head("GET /", authorization="Basic YTpi"))) == 200
    assert status(local.check(with_token("GET /", "x", "localhost"))) == 401
    assert [name for name, _ in log.lines] == ["peer_refused"]
    assert local.check(request_head("GET /")) is THIS_MACHINE


class Inviting(NoTokens):
    """A node without tokens that has an open invitation. Its secret is "right"."""

    is_inviting = True

    def identify(self, token: str):
        return INVITED if token == "right" else "this token is not known here"


@pytest.mark.parametrize("fields", [{}, {"authorization": "Basic eA=="}])
@pytest.mark.parametrize("line", ["POST /v1/pair", "GET /v1/pair", "POST /startrm"])
def test_a_client_without_the_secret_does_not_learn_whether_there_is_an_invitation(line, fields):
    head = request_head(line, "10.1.0.1", **fields)
    answers = [
        access_control(tokens=tokens).connected("10.1.0.9", "10.1.0.1").check(head)
        for tokens in (NoTokens(), Inviting())
    ]
    assert answers[0] == answers[1]
    assert status(answers[0]) == 403


def test_the_secret_of_an_invitation_allows_only_the_request_to_be_joined():
    client = access_control(tokens=Inviting()).connected("10.1.0.9", "10.1.0.1")
    secret = {"authorization": "Bearer right"}
    assert client.check(request_head("POST /v1/pair", "10.1.0.1", **secret)) is INVITED
    for line in ("GET /v1/pair", "POST /v1/pair/x", "POST /startrm", "GET /v1/runs"):
        assert status(client.check(request_head(line, "10.1.0.1", **secret))) == 403

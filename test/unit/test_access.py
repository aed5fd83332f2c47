"""Access control by the address of the client, and the log of refusals."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from fractal_rm.config.model import PublicUrl, Rest
from fractal_rm.domain.access import NOBODY, THIS_MACHINE, Identity, Scope
from fractal_rm.domain.address import read_network
from fractal_rm.domain.pairing import INVITED
from fractal_rm.web.access import REFUSALS_AT_ONCE, VISITS_AT_ONCE, Access, NoTokens
from fractal_rm.web.authorization import sufficient_scopes
from fractal_rm.web.client import ClientKind
from fractal_rm.web.head import read_head
from fractal_rm.web.peer_refusals import LOG_INTERVAL_S, MAX_PEERS, PeerRefusals
from fractal_rm.web.problems import Problem
from fractal_rm.web.request_state import TOKEN_REFUSED
from fractal_rm.web.untrusted import MAX_UNTRUSTED


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
    *trusted: str, endpoint: str = "/startrm", names=("edge-1",), log=None, tokens=None,
    now_s=lambda: 0.0, sessions=None, **rest: Any,
) -> Access:  # fmt: skip
    """``rest`` has further settings of the section ``rest``."""
    settings = Rest(endpoint, "10.1.0.1", 5000, tuple(map(read_network, trusted)), **rest)
    refusals = PeerRefusals(log or RecordingTelemetry(), lambda: 0.0)
    node_ids = {"edge-2": "2"}
    tokens = tokens or NoTokens()
    return Access(settings, lambda: names, refusals, tokens, lambda: node_ids, now_s, sessions)


def request_head(line: str, host: str = "localhost", **fields: str):
    method, target = line.encode().split(b" ")
    encoded_fields = [
        (name.replace("_", "-").encode(), value.encode())
        for name, value in {"host": host, **fields}.items()
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


def test_a_program_on_this_machine_may_not_act_without_a_token():
    local = access_control().connected("127.0.0.1", "127.0.0.1")
    identity = local.check(request_head("GET /"))
    assert isinstance(identity, Identity)
    assert [scope for scope in Scope if identity.may(scope)] == [
        Scope.TRIGGER, Scope.READ, Scope.PAYLOAD,
    ]  # fmt: skip


# --- proxies --------------------------------------------------------------------------------------

LOCAL_PROXY = (read_network("127.0.0.1"), read_network("::1"))
PUBLIC = PublicUrl("https", "fractal.example", 443)


@pytest.mark.parametrize("header", ["x_forwarded_for", "forwarded", "via", "x_real_ip"])
@pytest.mark.parametrize("proxies", [(), LOCAL_PROXY])
def test_a_request_that_a_local_proxy_has_forwarded_has_no_rights_of_this_machine(header, proxies):
    local = access_control(trusted_proxies=proxies).connected("127.0.0.1", "127.0.0.1")
    for value in ("127.0.0.1", "for=127.0.0.1", "::1", "10.1.0.1", "x"):
        for line in ("GET /v1/runs", "POST /startrm"):
            assert status(local.check(request_head(line, **{header: value}))) == 403
    assert local.check(request_head("GET /v1/runs")) is THIS_MACHINE


def test_a_forwarded_request_has_the_rights_of_its_token():
    access = access_control(tokens=OneToken(Scope.READ), trusted_proxies=LOCAL_PROXY)
    local = access.connected("127.0.0.1", "127.0.0.1")
    head = request_head("GET /v1/runs", authorization="Bearer t", x_forwarded_for="192.0.2.7")
    assert local.check(head) == Identity("token t", frozenset({Scope.READ}))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.2.0.5"])
def test_behind_a_trusted_proxy_the_address_of_the_client_decides(address):
    proxies = (*LOCAL_PROXY, read_network("10.2.0.5"))
    proxy = access_control("10.1.0.0/24", trusted_proxies=proxies).connected(address, "10.1.0.1")
    for client, expected_status in [
        ("10.1.0.2", 200), ("192.0.2.7", 403), ("10.1.0.2, 192.0.2.7", 403),
        ("192.0.2.7, 10.1.0.2", 200), ("unknown", 403), ("10.1.0.2, unknown", 403), ("::1", 403),
        ("10.2.0.5", 403), ("10.1.0.2, 10.2.0.5", 200),
    ]:  # fmt: skip
        head = request_head("POST /startrm", "localhost", x_forwarded_for=client)
        assert status(proxy.check(head)) == expected_status, client
        assert status(proxy.check(request_head("GET /", x_forwarded_for=client))) == 403


@pytest.mark.parametrize("proxy", ["10.1.0.7", "10.9.0.9"])
def test_the_headers_of_a_proxy_that_is_not_trusted_give_no_rights(proxy):
    access = access_control("10.1.0.0/24", trusted_proxies=(read_network("10.2.0.5"),))
    client = access.connected(proxy, "10.1.0.1")
    for forged in ("10.1.0.2", "127.0.0.1", "10.2.0.5"):
        assert status(client.check(request_head("POST /startrm", x_forwarded_for=forged))) == 403


def test_a_trusted_proxy_on_another_machine_has_no_rights_itself():
    access = access_control("10.1.0.0/24", trusted_proxies=(read_network("10.1.0.5"),))
    proxy = access.connected("10.1.0.5", "10.1.0.1")
    assert proxy.kind is ClientKind.PROXY
    assert access.untrusted_connections == 0
    assert status(proxy.check(request_head("POST /startrm"))) == 403


def test_a_proxy_with_the_certificate_of_a_node_does_not_give_its_rights_to_its_clients():
    access = access_control(trusted_proxies=LOCAL_PROXY)
    for address in ("10.9.0.9", "127.0.0.1"):
        client = access.connected(address, "10.1.0.1", ["edge-2"])
        head = request_head("POST /startrm", x_forwarded_for="192.0.2.7")
        assert status(client.check(head)) == 403
    direct = access.connected("10.9.0.9", "10.1.0.1", ["edge-2"])
    assert status(direct.check(request_head("POST /startrm"))) == 200


def test_a_request_for_the_public_url_counts_as_forwarded_without_a_header_of_the_proxy():
    local = access_control(public_url=PUBLIC).connected("127.0.0.1", "127.0.0.1")
    for fields in (
        {"host": "fractal.example"}, {"host": "FRACTAL.example.:443"},
        {"origin": "https://fractal.example"}, {"origin": "https://fractal.example:443"},
    ):  # fmt: skip
        assert status(local.check(request_head("GET /", **fields))) == 403
    assert local.check(request_head("GET /")) is THIS_MACHINE


def test_a_node_on_another_machine_may_use_the_name_of_the_public_url():
    """It connects to this node itself, so its address or its certificate is its own."""
    access = access_control("10.1.0.2", public_url=PublicUrl("https", "edge-1", 443))
    peer = access.connected("10.1.0.2", "10.1.0.1")
    node = access.connected("10.9.0.9", "10.1.0.1", ["edge-2"])
    for client in (peer, node):
        assert status(client.check(request_head("POST /startrm", "edge-1:5000"))) == 200


def test_a_public_url_on_loopback_leaves_local_programs_their_rights():
    access = access_control(public_url=PublicUrl("http", "localhost", 8080))
    local = access.connected("127.0.0.1", "127.0.0.1")
    assert local.check(request_head("GET /", "localhost:8080")) is THIS_MACHINE
    page = request_head("GET /", "localhost:8080", origin="http://localhost:8080")
    assert status(local.check(page)) == 403


def test_host_and_origin_of_a_forwarded_request_are_compared_with_the_public_url():
    access = access_control(
        tokens=OneToken(Scope.READ), trusted_proxies=LOCAL_PROXY, public_url=PUBLIC
    )
    local = access.connected("127.0.0.1", "127.0.0.1")
    own = "https://fractal.example"
    for host, origin, expected_status in [
        ("fractal.example", own, 200), ("localhost:5000", own, 200), ("fractal.example", None, 200),
        ("evil.example", None, 421), ("fractal.example.evil.example", None, 421),
        ("fractal.example", "http://fractal.example", 421),
        ("fractal.example", "https://fractal.example:8443", 421),
        ("fractal.example", "http://localhost:8080", 421),  # on the machine of the browser
        ("fractal.example", "null", 421), ("fractal.example", "https://evil.example", 421),
    ]:  # fmt: skip
        fields = {} if origin is None else {"origin": origin}
        head = request_head(
            "GET /", host, authorization="Bearer t", x_forwarded_for="192.0.2.7", **fields
        )
        assert status(local.check(head)) == expected_status, (host, origin)


def test_without_a_public_url_the_refusal_of_a_forwarded_request_names_the_setting():
    access = access_control(tokens=OneToken(Scope.READ), trusted_proxies=LOCAL_PROXY)
    head = request_head("GET /", "fractal.example", authorization="Bearer t", via="1.1 a")
    problem = access.connected("127.0.0.1", "127.0.0.1").check(head)
    assert isinstance(problem, Problem)
    assert "set rest.public_url" in problem.detail


def test_the_log_names_the_client_and_the_proxy(log):
    access = access_control(trusted_proxies=LOCAL_PROXY, log=log)
    local = access.connected("127.0.0.1", "127.0.0.1")
    local.check(request_head("GET /", x_forwarded_for="192.0.2.7"))
    local.check(request_head("GET /", x_forwarded_for="192.0.2.8"))
    access_control(log=log).connected("127.0.0.1", "").check(request_head("GET /", via="1.1 a"))
    assert [fields["peer"] for _, fields in log.lines] == [
        "192.0.2.7 behind the proxy 127.0.0.1",
        "192.0.2.8 behind the proxy 127.0.0.1",
        "a client behind the proxy 127.0.0.1",
    ]


# --- limits ---------------------------------------------------------------------------------------


def test_a_trusted_peer_above_its_rate_gets_429_and_another_peer_does_not():
    now_s = [0.0]
    access = access_control("10.1.0.0/24", peer_rate=5, now_s=lambda: now_s[0])
    first, second = (access.connected(f"10.1.0.{n}", "10.1.0.1") for n in (2, 3))
    trigger = request_head("POST /startrm")
    statuses = [status(first.check(trigger)) for _ in range(60)]
    assert statuses == [200] * 50 + [429] * 10
    assert not first.answers_late
    assert status(second.check(trigger)) == 200
    now_s[0] = 1.0
    assert [status(first.check(trigger)) for _ in range(6)] == [200] * 5 + [429]
    assert access.refusals.codes_text() == "rate-limited: 11"


def test_a_token_is_not_limited_by_the_rate_of_trusted_peers():
    access = access_control("10.1.0.0/24", peer_rate=1, tokens=OneToken(Scope.TRIGGER))
    peer = access.connected("10.1.0.2", "10.1.0.1")
    assert {status(peer.check(with_token("POST /startrm"))) for _ in range(100)} == {200}


@pytest.mark.parametrize("network", ["10.9.0", "10.1.0"])  # of strangers, and of trusted peers
def test_a_machine_that_sends_many_wrong_tokens_is_answered_late_and_others_are_not(network):
    now_s = [0.0]
    access = access_control("10.1.0.0/24", tokens=OneToken(Scope.READ), now_s=lambda: now_s[0])
    first, second = (access.connected(f"{network}.{n}", "10.1.0.1") for n in (2, 3))
    for _ in range(REFUSALS_AT_ONCE):
        first.check(with_token("GET /", "x"))
        assert not first.answers_late
    first.check(with_token("GET /", "x"))
    assert first.answers_late
    second.check(with_token("GET /", "x"))
    assert not second.answers_late
    assert status(first.check(with_token("GET /"))) == 200  # a valid token is always accepted
    now_s[0] = 1.0
    first.check(with_token("GET /", "x"))
    assert not first.answers_late


def test_a_flood_of_connections_closes_its_own_connections():
    access, closed = access_control(tokens=OneToken(Scope.READ)), []
    access.connected("10.9.0.1", "10.1.0.1", (), partial(closed.append, "other"))
    for number in range(MAX_UNTRUSTED + 100):
        access.connected("10.9.0.2", "10.1.0.1", (), partial(closed.append, number))
        access.limit_untrusted()
    assert closed == list(range(101))
    assert access.untrusted_connections == MAX_UNTRUSTED


def test_refusals_are_counted_by_their_code():
    access = access_control("10.1.0.2", tokens=OneToken(Scope.READ))
    client = access.connected("10.9.0.9", "10.1.0.1")
    client.check(with_token("GET /", "x"))
    client.check(with_token("POST /startrm"))
    client.check(with_token("GET /", host="evil.example"))
    access.connected("10.1.0.2", "10.1.0.1").check(request_head("GET /"))
    assert access.refusals.codes_text() == (
        "missing-scope: 1, peer-refused: 1, unauthenticated: 1, wrong-host: 1"
    )


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


@pytest.mark.parametrize(
    ("request_line", "scope"),
    [
        ("POST /v1/runs/R/cancel", "operate"),
        ("POST /v1//runs/R/c%61ncel/", "operate"),
        ("POST /v1/dead/R/send", "operate"),
        ("POST /v1/flows/1/pause", "operate"),
        ("POST /v1/flows/1/runs/x", "operate"),
        ("POST /v1/bulk", "operate"),
        ("DELETE /v1/bulk/1", "operate"),
        ("PATCH /v1/anything", "operate"),
        ("PUT /v1/log-level", "admin"),
        ("PUT //v1/log%2Dlevel/", "admin"),
        ("GET /v1/events", "read"),
        ("POST /v1/flows/1/runs/", "trigger"),
    ],
)
def test_every_change_that_is_not_a_trigger_needs_the_scope_of_an_operator(request_line, scope):
    method, _, path = request_line.partition(" ")
    found = sufficient_scopes(method.encode(), unquote_to_bytes(path), is_endpoint=False)
    assert [each.value for each in found] == [scope]


# --- pages ----------------------------------------------------------------------------------------

ANNA = Identity("token anna", frozenset({Scope.OPERATE}))


class OneSession:
    """Port `Sessions` with one session, whose text is "s"."""

    def identify(self, session: str) -> Identity | None:
        return ANNA if session == "s" else None


def visit(access: Access, line: str, address: str = "10.9.0.9", names=(), **fields: str):
    client = access.connected(address, "10.1.0.1", names)
    return client.check(request_head(line, fields.pop("host", "10.1.0.1"), **fields))


@pytest.mark.parametrize("address", ["10.9.0.9", "10.1.0.2", "127.0.0.1"])
def test_a_session_counts_at_the_pages_and_nowhere_else(address):
    access = access_control("10.1.0.2", tokens=OneToken(Scope.READ), sessions=OneSession())
    for line in ("GET /", "POST /runs/1/cancel", "GET //runs/", "GET /%72uns?x=/v1"):
        assert visit(access, line, address, cookie="a=b; fractal_rm_5000=s") is ANNA
    for line in ("GET /v1/runs", "POST /v1/bulk", "POST /startrm", "GET /runsx", "GET /metrics"):
        assert visit(access, line, address, cookie="fractal_rm_5000=s") is not ANNA


def test_whoever_may_not_read_is_asked_to_sign_in_if_the_node_has_tokens():
    for sessions, tokens, expected in (
        (OneSession(), OneToken(Scope.READ), NOBODY), (OneSession(), NoTokens(), 403),
        (None, OneToken(Scope.READ), 401),
    ):  # fmt: skip
        access = access_control(tokens=tokens, sessions=sessions)
        found = visit(access, "GET /runs")
        assert (found if found is NOBODY else status(found)) == expected
    access = access_control("10.1.0.2", tokens=OneToken(Scope.READ), sessions=OneSession())
    assert visit(access, "GET /runs", "10.1.0.2") is NOBODY
    assert visit(access, "GET /runs", names=["edge-2"]) is NOBODY
    assert visit(access, "GET /runs", names=["stranger"]) is NOBODY
    assert visit(access, "GET /runs", "127.0.0.1") is THIS_MACHINE
    assert status(visit(access, "GET http://[")) == 401
    assert status(visit(access, "GET /runs", host="evil.example")) == 421
    assert status(visit(access, "GET /runs", authorization="Bearer wrong")) == 401


def test_a_node_without_tokens_shows_pages_to_this_machine_only():
    access = access_control("10.1.0.2", sessions=OneSession())
    assert status(visit(access, "GET /", "10.1.0.2")) == 403
    assert status(visit(access, "GET /", names=["edge-2"])) == 403
    assert status(visit(access, "GET /", "127.0.0.1", x_forwarded_for="127.0.0.1")) == 403
    assert visit(access, "GET /", "127.0.0.1") is THIS_MACHINE


def test_the_secret_of_an_invitation_opens_no_page():
    access = access_control(tokens=Inviting(), sessions=OneSession())
    for fields in ({}, {"cookie": "fractal_rm_5000=s"}):
        found = visit(access, "GET /", authorization="Bearer right", **fields)
        assert status(found) == 403
    assert visit(access, "GET /", cookie="fractal_rm_5000=right") is not INVITED


def test_a_connection_with_a_session_is_not_counted_as_untrusted():
    access = access_control(tokens=OneToken(Scope.READ), sessions=OneSession())
    client = access.connected("10.9.0.9", "10.1.0.1")
    client.check(request_head("GET /sign-in", "10.1.0.1"))
    assert access.untrusted_connections == 1
    client.check(request_head("GET /", "10.1.0.1", cookie="fractal_rm_5000=s"))
    assert access.untrusted_connections == 0


def test_a_machine_that_opens_many_pages_before_signing_in_is_slowed_down():
    now_s = [0.0]
    access = access_control(
        tokens=OneToken(Scope.READ), sessions=OneSession(), now_s=lambda: now_s[0]
    )
    found = [status(visit(access, "GET /sign-in")) for _ in range(VISITS_AT_ONCE + 3)]
    assert found == [200] * VISITS_AT_ONCE + [429] * 3
    assert visit(access, "GET /", cookie="fractal_rm_5000=s") is ANNA
    assert visit(access, "GET /", "10.9.0.8") is NOBODY
    now_s[0] = 1.0
    assert visit(access, "GET /sign-in") is NOBODY
    assert access.refusals.codes_text() == "rate-limited: 3"


def test_a_refused_token_is_counted_and_logged_for_the_person_who_has_sent_it(log):
    access = access_control(
        tokens=OneToken(Scope.READ), sessions=OneSession(), trusted_proxies=LOCAL_PROXY, log=log,
        public_url=PUBLIC,
    )  # fmt: skip
    client = access.connected("127.0.0.1", "127.0.0.1")
    state: dict[str, Any] = {}
    head = request_head("POST /sign-in", "fractal.example", x_forwarded_for="192.0.2.7")
    client.describe(client.check(head), state)
    client.check(request_head("GET /v1/runs"))  # a later request on the connection
    state[TOKEN_REFUSED]("it is wrong")
    fields = log.lines[-1][1]
    assert (fields["peer"], fields["asked"], fields["why"]) == (
        "192.0.2.7 behind the proxy 127.0.0.1", "POST /sign-in", "it is wrong",
    )  # fmt: skip
    client.describe(THIS_MACHINE, other := {})
    assert TOKEN_REFUSED not in other

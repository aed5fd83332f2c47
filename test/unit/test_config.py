"""Reading the five configuration files: keys, defaults, addresses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_files import SHIPPED, copy_shipped, edit, write
from fractal_rm.config.compile import FILES, compile_config
from fractal_rm.config.load import load
from fractal_rm.domain.call import BodyForm, Tls
from fractal_rm.domain.circuit import CircuitRule
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.domain.gate_rule import GateRule
from fractal_rm.domain.handoff.sender import AfterSilence
from fractal_rm.domain.rate import Rate


@pytest.fixture
def folder(tmp_path):
    return copy_shipped(tmp_path)


def test_the_shipped_files_have_the_values_of_the_original(folder):
    compiled = load(folder, {})
    config = compiled.config
    assert compiled.warnings == []
    assert list(config.flows) == ["1", "2", "3"]
    assert [len(flow.steps) for flow in config.flows.values()] == [3, 2, 2]
    post = config.components["component1"].endpoints["2"].post
    assert (str(post.origin), post.method, post.target) == (
        "http://127.0.0.1:6000", "POST", "/endpoint2",
    )  # fmt: skip
    assert [(node.id, node.offer.target) for node in config.nodes.values()] == [
        ("1", "/nodo1"),
        ("2", "/nodo2"),
        ("3", "/nodo3"),
    ]
    assert config.balancer.target == "/LB/id_node"
    (broker,) = config.mqtt.brokers
    assert (config.mqtt.topic, str(broker), config.mqtt.keepalive) == (
        "component_msg", "127.0.0.1:1883", 60,
    )  # fmt: skip
    assert (config.rest.endpoint, config.rest.host, config.rest.port) == (
        "/startrm", "127.0.0.1", 5000,
    )  # fmt: skip
    assert config.state_path == str(folder.parent / "state")
    assert config.node_id is None


def test_times_and_bounds_have_the_documented_defaults(folder):
    config = load(folder, {}).config
    step = config.components["component1"].endpoints["1"].get
    assert (step.connect_timeout_s, step.timeout_s, step.max_response_bytes) == (3, 30, 8 << 20)
    assert config.balancer.timeout_s == 1
    node = config.nodes["1"]
    assert (node.offer.timeout_s, node.offer_once.timeout_s) == (5, 60)
    assert (node.offer.repeatable, node.offer_once.repeatable) == (True, False)
    assert node.after_silence is None
    bounds = config.bounds
    assert (bounds.max_inflight_runs, bounds.max_waiting_runs) == (1_000, 100_000)
    assert (bounds.max_inflight_bytes, bounds.max_trigger_bytes) == (256 << 20, 256 << 10)
    assert (bounds.dedup_window_s, bounds.recovery_max_age_s) == (86_400, 3_600)
    assert (bounds.drain_s, bounds.max_attempts) == (30, 3)
    assert (bounds.history_s, bounds.history_bytes) == (7 * 86_400, 1 << 30)


def test_every_optional_key_is_read(folder):
    edit(folder, "comm", mqtt__username="u", mqtt__password="p", mqtt__client_id="node-a",
         mqtt__tls={"ca": "ca.pem"}, mqtt__session_expiry_s=10, mqtt__receive_maximum=7,
         mqtt__retained=True, rest__port=5001, node__id=4, log__path="rm.log",
         state__path="/var/lib/rm", state__max_inflight_bytes=1 << 21,
         recovery__max_age_s=9, max_trigger_bytes=1000, drain_s=0.5)  # fmt: skip
    edit(folder, "components", component1__config={
        "protocol": "https", "ip": "::1", "port": 1, "endpoints": {"1": "/a b/ü?x=1", "2": "y"},
        "timeout_s": 1.5, "connect_timeout_s": 0.5, "headers": {"Host": "h", "X-A": "b"},
        "tls": {"ca": "ca.pem", "cert": "c.pem", "key": "k.pem"}, "max_response_bytes": 5,
        "limit": 3, "idempotent": False, "body": "python-repr", "rate": "90/min", "probe": "2",
        "circuit": {"failures": 0.25, "window_s": 60, "least_calls": 5, "open_s": 2, "waiting": 7},
    })  # fmt: skip
    edit(folder, "nodes", **{"1__config__peer": "original", "1__config__limit": 2,
         "1__config__timeout_s": 9, "1__config__after_silence": "run-here"})  # fmt: skip
    config = load(folder, {}).config
    base = folder.parent
    assert (config.mqtt.username, config.mqtt.password) == ("u", "p")
    assert config.mqtt.tls == Tls(ca=str(base / "ca.pem"))
    assert (config.mqtt.client_id, config.mqtt.session_expiry_s) == ("node-a", 10)
    assert (config.mqtt.receive_maximum, config.mqtt.retained) == (7, True)
    assert (config.node_id, config.log_path) == ("4", str(base / "rm.log"))
    assert (config.state_path, config.rest.port) == ("/var/lib/rm", 5001)
    assert (config.bounds.recovery_max_age_s, config.bounds.drain_s) == (9, 0.5)
    component = config.components["component1"]
    assert (component.idempotent, component.body) == (False, BodyForm.PYTHON_REPR)
    assert component.gate == GateRule(3, Rate(90, "min"), CircuitRule(0.25, 60, 5, 2, 7))
    assert component.probe == component.endpoints["2"]
    post = component.endpoints["1"].post
    assert str(post.origin) == "https://[::1]:1"
    assert post.target == "/a%20b/%C3%BC?x=1"
    assert b"Host: h\r\nX-A: b\r\n" in post.head
    assert (post.timeout_s, post.connect_timeout_s, post.max_response_bytes) == (1.5, 0.5, 5)
    assert not post.repeatable
    node = config.nodes["1"]
    assert (node.peer, node.after_silence) == ("original", AfterSilence.RUN_HERE)
    assert node.gate == GateRule(2)
    assert (node.offer.timeout_s, node.offer_once.timeout_s) == (9, 9)


def test_a_peer_is_identified_by_its_address_and_not_by_its_name(folder):
    def address(**changes):
        edit(folder, "nodes", **{f"1__config__{key}": each for key, each in changes.items()})
        return load(folder, {}).config.nodes["1"].address

    first = address()
    assert first == "http://127.0.0.1:6000/nodo1"
    edit(folder, "nodes", **{"1__id": 7})
    assert load(folder, {}).config.nodes["7"].address == first
    edit(folder, "nodes", **{"1__id": 1})
    assert address(timeout_s=9, headers={"Authorization": "secret"}) == first
    behind_gateway = address(headers={"host": "a.local"})
    assert behind_gateway == f"{first} a.local"
    addresses = {
        first,
        behind_gateway,
        address(port=6001),
        address(ip="10.0.0.7"),
        address(endpoint="x"),
    }
    assert len(addresses) == 5


def test_a_route_has_the_names_of_its_component_endpoint_or_node(folder):
    config = load(folder, {}).config
    endpoint = config.components["component1"].endpoints["2"]
    node = config.nodes["2"]
    routes = [endpoint.get, endpoint.post, node.offer, node.describe, config.balancer]
    assert [(route.component, route.endpoint, route.node) for route in routes] == [
        ("component1", "2", None), ("component1", "2", None),
        (None, None, "2"), (None, None, "2"),
        (None, None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "host", ["camera", "cam_1.local.", "10.0.0.7", "::ffff:10.0.0.7", "fe80::1%eth0", "xn--9nyv.cn"]
)
def test_a_host_is_an_address_or_a_name(folder, host):
    edit(folder, "load_balancer", ip=host)
    assert load(folder, {}).config.balancer.origin.host == host


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("主/a b", "/%E4%B8%BB/a%20b"),
        ("%20?x=#", "/%20?x=%23"),
        ("a\r\nX: y\0", "/a%0D%0AX:%20y%00"),
        ("", "/"),
    ],
)
def test_characters_not_allowed_in_a_request_line_are_percent_encoded(folder, path, target):
    edit(folder, "components", component1__config__endpoints={"1": path, "2": "y"})
    assert load(folder, {}).config.components["component1"].endpoints["1"].get.target == target


_any_text = st.text() | st.sampled_from(
    ["10.0.0.7", "${env:V}", "a${env:V}.local", "主机.local", "lb..local", "a\r\nb", "fe80::1%\n"]
)


@given(_any_text, _any_text, st.dictionaries(_any_text, _any_text, max_size=3), _any_text)
def test_any_text_of_a_target_gives_a_configuration_or_findings(ip, path, headers, variable):
    address = {"protocol": "http", "ip": ip, "port": 1, "headers": headers}
    calls = {"config": {**address, "endpoints": {"1": path, path: "2"}}}
    peer = {"config": {**address, "endpoint": path}}
    files = {name: "" if name == "flows.conf" else "{}" for name in FILES}
    files["components.conf"] = json.dumps({"a": calls})
    files["nodes.conf"] = json.dumps({"a": peer})
    files["load_balancer.conf"] = json.dumps(peer["config"])
    try:
        compile_config(files, SHIPPED, {"V": variable})
    except ConfigRejected as rejected:
        assert all(finding.place.line == 1 for finding in rejected.findings)
        assert str(rejected).encode()


def test_ids_of_nodes_may_be_numbers_or_texts(folder):
    edit(folder, "nodes", **{"1__id": 0, "2__id": "2"})
    assert list(load(folder, {}).config.nodes) == ["0", "2", "3"]


@pytest.mark.parametrize(
    ("host", "brokers"),
    [
        ("edge", ["edge:1884"]),
        ("edge:1", ["edge:1"]),
        (["a", "b:2"], ["a:1884", "b:2"]),
        ("::1", ["[::1]:1884"]),
        ("[::1]", ["[::1]:1884"]),
        ("[fe80::1%eth0]:7", ["[fe80::1%eth0]:7"]),
        (["${env:BROKER}"], ["from.env:9"]),
        (None, ["127.0.0.1:1884"]),
    ],
)
def test_mqtt_host_is_one_broker_or_a_list_with_optional_ports(folder, host, brokers):
    edit(folder, "comm", mqtt__host=host, mqtt__port=1884)
    config = load(folder, {"BROKER": "from.env:9"}).config
    assert [str(broker) for broker in config.mqtt.brokers] == brokers


@pytest.mark.parametrize(("version", "read"), [(5, "5"), ("3.1.1", "3.1.1"), (None, None)])
def test_the_version_of_mqtt_can_be_configured(folder, version, read):
    edit(folder, "comm", mqtt__version=version)
    assert load(folder, {}).config.mqtt.version == read


def test_an_empty_balancer_file_means_no_balancer(folder):
    write(folder, "load_balancer", {})
    assert load(folder, {}).config.balancer is None

"""The five files: what they say, every finding of all of them at once, and changes on the disk."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractal_rm.config.compile import FILES, Compiled, compile_config
from fractal_rm.config.control import Control, ControlUnreadable, read_control, write_control
from fractal_rm.config.json_text import JsonFault, Value, parse_json
from fractal_rm.config.key_reader import MAX_MASKED
from fractal_rm.config.load import Watch, load
from fractal_rm.domain.call import BodyForm, Tls
from fractal_rm.domain.findings import CODES, ConfigRejected
from fractal_rm.domain.handoff import AfterSilence
from keys import encrypted_key

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "runtime_manager" / "config_files"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(SHIPPED, tmp_path / "config_files")
    return tmp_path / "config_files"


def write(folder: Path, name: str, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / f"{name}.conf").write_text(text)


def edit(folder: Path, name: str, **changes: object) -> None:
    """Set keys of a file; ``a__b=1`` sets b in a."""
    content = json.loads((folder / f"{name}.conf").read_text())
    for path, value in changes.items():
        inner = content
        *outer, last = path.split("__")
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = value
    write(folder, name, content)


def findings(folder: Path, **environ: str) -> list[str]:
    """``file code`` of every finding, warnings too."""
    try:
        found = load(folder, environ).warnings
    except ConfigRejected as rejected:
        found = rejected.findings
    assert all(finding.code in CODES for finding in found)
    return [f"{finding.file} {finding.code}" for finding in found]


def test_the_shipped_files_are_those_of_the_seed(folder):
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


def test_a_route_has_the_names_it_was_made_for(folder):
    config = load(folder, {}).config
    endpoint = config.components["component1"].endpoints["2"]
    node = config.nodes["2"]
    routes = [endpoint.get, endpoint.post, node.offer, node.offer_once, config.balancer]
    assert [(route.component, route.endpoint, route.node) for route in routes] == [
        ("component1", "2", None), ("component1", "2", None),
        (None, None, "2"), (None, None, "2"),
        (None, None, None),
    ]  # fmt: skip


def test_times_and_bounds_have_the_defaults_that_are_promised(folder):
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
        "limit": 3, "idempotent": False, "body": "python-repr",
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
    assert (component.idempotent, component.body, component.limit) == (
        False, BodyForm.PYTHON_REPR, 3,
    )  # fmt: skip
    post = component.endpoints["1"].post
    assert str(post.origin) == "https://[::1]:1"
    assert post.target == "/a%20b/%C3%BC?x=1"
    assert b"Host: h\r\nX-A: b\r\n" in post.head
    assert (post.timeout_s, post.connect_timeout_s, post.max_response_bytes) == (1.5, 0.5, 5)
    assert not post.repeatable
    node = config.nodes["1"]
    assert (node.peer, node.limit, node.after_silence) == ("original", 2, AfterSilence.RUN_HERE)
    assert (node.offer.timeout_s, node.offer_once.timeout_s) == (9, 9)


def test_what_identifies_a_peer_is_where_it_is_asked_and_not_what_it_is_called(folder):
    def address(**changes):
        edit(folder, "nodes", **{f"1__config__{key}": each for key, each in changes.items()})
        return load(folder, {}).config.nodes["1"].address

    first = address()
    assert first == "http://127.0.0.1:6000/nodo1"
    edit(folder, "nodes", **{"1__id": 7})
    assert load(folder, {}).config.nodes["7"].address == first
    edit(folder, "nodes", **{"1__id": 1})
    assert address(timeout_s=9, headers={"Authorization": "secret"}) == first
    at_the_gateway = address(headers={"host": "a.local"})
    assert at_the_gateway == f"{first} a.local"
    found = {
        first,
        at_the_gateway,
        address(port=6001),
        address(ip="10.0.0.7"),
        address(endpoint="x"),
    }
    assert len(found) == 5


def test_files_for_tls_have_no_effect_without_https(folder):
    edit(folder, "components", component1__config__tls={"ca": "ca.pem"})
    for protocol, found in (("http", ["C229"]), ("https", [])):
        edit(folder, "components", component1__config__protocol=protocol)
        assert [finding.code for finding in load(folder, {}).warnings] == found


def test_an_address_in_brackets_is_told_to_leave_them_out(folder):
    edit(folder, "components", component1__config__ip="[::1]:80")
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    assert "without brackets" in rejected.value.findings[0].render()


def test_a_choice_for_silence_that_a_node_of_ours_never_needs_is_warned_about(folder):
    edit(folder, "nodes", **{"1__config__peer": "fractal", "1__config__after_silence": "unknown"})
    assert [finding.code for finding in load(folder, {}).warnings] == ["C229"]


def test_a_node_that_may_be_an_original_and_flows_that_it_could_not_run_are_warned_about(folder):
    flows = (folder / "flows.conf").read_text()
    (folder / "flows.conf").write_text(flows + "\n12\nTO component1 1\nGET\n")
    edit(folder, "nodes", **{"1__config__peer": "original", "2__config__peer": "fractal"})
    (finding,) = load(folder, {}).warnings
    assert (finding.code, finding.file) == ("C228", "nodes.conf")
    assert "node 3 may be an original, so it is not given flow 12" in finding.text
    (folder / "load_balancer.conf").write_text("{}")
    assert load(folder, {}).warnings == []


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
def test_what_cannot_stand_in_a_request_line_is_percent_encoded(folder, path, target):
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
    texts = {file: "" if file == "flows.conf" else "{}" for file in FILES}
    texts["components.conf"] = json.dumps({"a": calls})
    texts["nodes.conf"] = json.dumps({"a": peer})
    texts["load_balancer.conf"] = json.dumps(peer["config"])
    try:
        compile_config(texts, SHIPPED, {"V": variable})
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
def test_brokers_are_a_host_or_several_each_with_a_port_where_it_is_another(folder, host, brokers):
    edit(folder, "comm", mqtt__host=host, mqtt__port=1884)
    config = load(folder, {"BROKER": "from.env:9"}).config
    assert [str(broker) for broker in config.mqtt.brokers] == brokers


@pytest.mark.parametrize(("version", "read"), [(5, "5"), ("3.1.1", "3.1.1"), (None, None)])
def test_the_version_of_mqtt_may_be_said(folder, version, read):
    edit(folder, "comm", mqtt__version=version)
    assert load(folder, {}).config.mqtt.version == read


def test_a_flow_that_begins_where_triggers_come_is_warned_about(folder):
    edit(folder, "comm", mqtt__topic="$share/nodes/plant/#")
    flows = (folder / "flows.conf").read_text()
    for flow, topic in (("8", "plant/+/frame"), ("9", "plants/a")):
        flows += f"\n\n{flow}\nON {topic}\nTO component1 1\nGET\n"
    (folder / "flows.conf").write_text(flows)
    (warning,) = load(folder, {}).warnings
    assert "flow 8 begins at plant/+/frame, where every message is a trigger" in warning.headline()
    assert "[C222]" in warning.headline()


def test_a_topic_of_which_emqx_takes_the_beginning_off_is_warned_about(folder):
    edit(folder, "comm", mqtt__topic="$queue/plant")
    (warning,) = load(folder, {}).warnings
    assert "[C219]" in warning.headline()


def test_an_empty_balancer_means_there_is_none(folder):
    write(folder, "load_balancer", {})
    assert load(folder, {}).config.balancer is None


def test_secrets_come_from_the_environment_or_a_file(folder):
    (folder.parent / "secret").write_text("\ufefffrom a file\n")
    edit(folder, "comm", mqtt__username="${env:RM_USER}", mqtt__password="${file:secret}")
    compiled = load(folder, {"RM_USER": "from the environment"})
    assert compiled.config.mqtt.username == "from the environment"
    assert compiled.config.mqtt.password == "from a file"
    assert compiled.referenced == [folder.parent / "secret"]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("comm", {"mqtt__topik": "x"}, "comm.conf C203"),
        ("comm", {"mqtt__port": "1883"}, "comm.conf C205"),
        ("comm", {"mqtt__port": 0}, "comm.conf C206"),
        ("comm", {"mqtt__port": True}, "comm.conf C205"),
        ("comm", {"mqtt__client_id": "2"}, "comm.conf C206"),
        ("comm", {"mqtt": 1}, "comm.conf C205"),
        ("comm", {"mqtt__topic": ""}, "comm.conf C219"),
        ("comm", {"mqtt__topic": "a#b"}, "comm.conf C219"),
        ("comm", {"mqtt__topic": "a/" * 200}, "comm.conf C219"),
        ("comm", {"mqtt__topic": "$share/g"}, "comm.conf C219"),
        ("comm", {"mqtt__topic": "#"}, "comm.conf C219"),
        ("comm", {"mqtt__topic": "$share/g/fractal-rm/+/status"}, "comm.conf C219"),
        ("comm", {"mqtt__client_id": "node/#"}, "comm.conf C220"),
        ("comm", {"mqtt__client_id": "a\0"}, "comm.conf C220"),
        ("comm", {"mqtt__client_id": "x" * 1_000}, "comm.conf C220"),
        ("comm", {"mqtt__username": "a\0"}, "comm.conf C206"),
        ("comm", {"mqtt__username": "a\tb"}, "comm.conf C206"),
        ("comm", {"mqtt__password": "p" * 65_536}, "comm.conf C206"),
        ("comm", {"mqtt__host": ""}, "comm.conf C221"),
        ("comm", {"mqtt__host": ["", "a"]}, "comm.conf C221"),
        ("comm", {"mqtt__host": []}, "comm.conf C206"),
        ("comm", {"mqtt__host": ["a", 7]}, "comm.conf C205"),
        ("comm", {"mqtt__host": {"a": 1}}, "comm.conf C205"),
        ("comm", {"mqtt__host": "http://a"}, "comm.conf C221"),
        ("comm", {"mqtt__host": ["a", "b:0"]}, "comm.conf C221"),
        ("comm", {"mqtt__host": "b:65536"}, "comm.conf C221"),
        ("comm", {"mqtt__host": "a b"}, "comm.conf C221"),
        ("comm", {"mqtt__host": "a,b"}, "comm.conf C221"),
        ("comm", {"mqtt__host": "a:1883,b:1883"}, "comm.conf C221"),
        ("comm", {"mqtt__host": "user:word@b:1883"}, "comm.conf C221"),
        ("comm", {"mqtt__host": "a:1883;b:1883"}, "comm.conf C221"),
        ("comm", {"mqtt__host": "10.0.0.300"}, "comm.conf C221"),
        ("comm", {"mqtt__host": "[::1"}, "comm.conf C221"),
        ("comm", {"mqtt__host": ["a"] * 17}, "comm.conf C221"),
        ("comm", {"mqtt__version": "3.1"}, "comm.conf C206"),
        ("comm", {"mqtt__version": 4}, "comm.conf C206"),
        ("comm", {"mqtt__version": 3.1}, "comm.conf C205"),
        ("comm", {"mqtt__password": "${env:NONE}"}, "comm.conf C207"),
        ("comm", {"mqtt__password": "${file:none}"}, "comm.conf C207"),
        ("comm", {"mqtt__password": "${ENV:PW}"}, "comm.conf C207"),
        ("comm", {"mqtt__password": "${pw}"}, "comm.conf C207"),
        ("comm", {"mqtt__password": "${file:no\0ne}"}, "comm.conf C207"),
        ("comm", {"mqtt__password": "${file:config_files}"}, "comm.conf C207"),
        ("comm", {"rest__host": "0.0.0.0"}, "comm.conf C208"),
        ("comm", {"rest__host": "edge-7"}, "comm.conf C208"),
        ("comm", {"rest__host": "10.0.0.1", "rest__trusted_peers": []}, "comm.conf C208"),
        ("comm", {"rest__trusted_peers": ["10.0.0.2"]}, "comm.conf C216"),
        ("comm", {"rest__endpoint": "/{b:foo}"}, "comm.conf C206"),
        ("comm", {"rest__endpoint": "/start rm"}, "comm.conf C206"),
        ("comm", {"rest__endpoint": "/startrm?x=1"}, "comm.conf C206"),
        ("comm", {"rest__endpoint": "/start%20rm"}, "comm.conf C206"),
        ("comm", {"rest__endpoint": "http://h/startrm"}, "comm.conf C206"),
        ("comm", {"rest__endpoint": "/schema/x"}, "comm.conf C206"),
        ("comm", {"log__path": "rm\0.log"}, "comm.conf C206"),
        ("comm", {"log__path": "config_files/flows.conf"}, "comm.conf C206"),
        ("comm", {"log__path": "state/../state/api.journal"}, "comm.conf C206"),
        ("comm", {"log__path": "state/rm.log"}, None),
        ("comm", {"more": [0] * 50_000}, "comm.conf C232"),
        ("comm", {"more": "x" * MAX_MASKED, "drain_s": 0}, "comm.conf C206"),
        ("comm", {"state__pth": "x"}, "comm.conf C203"),
        ("comm", {"drain_s": 0}, "comm.conf C206"),
        ("components", {"component1__config__port": None}, None),
        ("components", {"component1__config__protocol": "ftp"}, "components.conf C206"),
        ("components", {"component1__config__ip": ""}, "components.conf C204"),
        ("components", {"component1__config__idempotnt": False}, "components.conf C203"),
        ("components", {"component1__config__body": "xml"}, "components.conf C206"),
        ("components", {"component1__config__headers": {"X": "a\r\nB: c"}}, "components.conf C206"),
        ("components", {"component1__config__headers": {"X y": "a"}}, "components.conf C206"),
        ("components", {"component1__config__headers": {"Host\n": "a"}}, "components.conf C206"),
        ("components", {"component1__config__limit": 0}, "components.conf C206"),
        ("components", {"component1__config__tls": {"key": "k"}}, "components.conf C204"),
        ("nodes", {"2__id": "1"}, "nodes.conf C209"),
        ("nodes", {"1__config__peer": "old"}, "nodes.conf C206"),
        ("nodes", {"1__config__endpoint": ""}, "nodes.conf C204"),
        ("nodes", {"1__config__ip": "127.0.0.1.5"}, "nodes.conf C206"),
        ("nodes", {"1__config__ip": "::1::"}, "nodes.conf C206"),
        ("nodes", {"1__config__ip": "主机.local"}, "nodes.conf C206"),
        ("nodes", {"1__config__ip": "fe80::1%e\nX: y"}, "nodes.conf C206"),
        ("nodes", {"1__config__ip": "a" * 64}, "nodes.conf C206"),
        ("nodes", {"1__config__ip": "http://camera"}, "nodes.conf C206"),
        ("load_balancer", {"ip": "lb..local"}, "load_balancer.conf C206"),
        ("nodes", {"1__config__pi": "x"}, "nodes.conf C203"),
        ("load_balancer", {"ip": 7}, "load_balancer.conf C205"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_finding(folder, name, changes, expected):
    edit(folder, name, **changes)
    if expected is not None:
        assert expected in findings(folder)


def test_a_value_that_is_read_twice_is_wrong_once(folder):
    edit(folder, "nodes", **{"1__config__timeout_s": 0, "1__id": 2.5})
    assert findings(folder) == ["nodes.conf C205", "nodes.conf C206"]


def test_a_reference_that_fails_is_wrong_once(folder):
    missing = "${env:NOT_THERE}"
    edit(folder, "comm", mqtt__topic=missing, mqtt__host=[missing])
    edit(folder, "nodes", **{"1__config__protocol": missing})
    assert findings(folder) == ["comm.conf C207", "comm.conf C207", "nodes.conf C207"]


def test_nothing_else_is_said_for_a_reference_that_fails(folder):
    missing = "${file:not there}"  # at each place, as of a variable
    edit(folder, "comm", mqtt__tls={"cert": missing, "key": "key.pem"})
    edit(folder, "comm", rest__host="0.0.0.0", rest__trusted_peers=[missing])
    for node in ("1", "2"):
        edit(folder, "nodes", **{f"{node}__config__ip": missing})
    assert findings(folder) == ["comm.conf C207"] * 2 + ["nodes.conf C207"] * 2


def test_where_a_reference_fails_nothing_is_guessed_of_what_it_stands_for(folder):
    missing = "${env:NOT_THERE}"
    write(folder, "flows", "11\nTO component1 1\nGET\n")
    cert, _ = encrypted_key(folder, "with its certificate")
    edit(folder, "comm", mqtt__tls={"cert": str(cert), "key": missing})
    edit(folder, "comm", state__path=missing, log__path="state/rm")
    edit(folder, "nodes", **{"1__config__peer": missing})
    assert findings(folder) == ["comm.conf C207"] * 2 + ["nodes.conf C207"]


def test_a_value_of_a_wrong_type_is_not_missing_too(folder):
    edit(folder, "components", component1__config__endpoints=["/a"], component2__config=7)
    edit(folder, "nodes", **{"1__config__protocol": 7})
    found = [each for each in findings(folder) if not each.startswith("flows")]
    assert found == ["components.conf C205"] * 2 + ["nodes.conf C205"]


def test_a_reference_that_fails_hides_no_other_mistake(folder):
    missing = "${env:NOT_THERE}"
    edit(folder, "comm", mqtt__tls={"ca": missing, "key": "key.pem"})
    edit(folder, "comm", rest__host="10.0.0.999", rest__trusted_peers=[missing])
    assert sorted(findings(folder)) == [
        "comm.conf C204", "comm.conf C207", "comm.conf C207", "comm.conf C215",
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["pkcs8", "traditional", "with its certificate"])
def test_a_key_that_needs_a_passphrase_is_a_finding(folder, form):
    cert, key = encrypted_key(folder, form)
    tls = {"cert": str(cert), "key": str(key)} if key else {"cert": str(cert)}
    for name, path in {
        "components": "component1__config__tls",
        "nodes": "1__config__tls",
        "load_balancer": "tls",
        "comm": "mqtt__tls",
    }.items():
        before = (folder / f"{name}.conf").read_text()
        https = {} if name == "comm" else {path.replace("tls", "protocol"): "https"}
        edit(folder, name, **{path: tls}, **https)
        assert findings(folder) == [f"{name}.conf C225"]
        (folder / f"{name}.conf").write_text(before)
    edit(folder, "components", component1__config__protocol="https")
    if key:
        key.write_bytes(b"\xef\xbb\xbf" + key.read_bytes())
        edit(folder, "components", component1__config__tls=tls)
        assert findings(folder) == ["components.conf C225"]
        plain_pem = folder / "plain.pem"
        plain_pem.write_bytes(plain_pem.read_bytes() + key.read_bytes())  # the first one counts
    plain = {"cert": str(cert), "key": str(folder / "plain.pem")}
    edit(folder, "components", component1__config__tls=plain)
    assert findings(folder) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "C202"),
        ("{", "C202"),
        ("[]", "C205"),
        ('{"a": 1,}', "C202"),
        ("{'a': 1}", "C202"),
        ('{"mqtt": NaN}', "C202"),
        ('{"mqtt": {}, "mqtt": {}}', "C210"),
        ('{"mqtt": "a\nb"}', "C202"),
        ("{} x", "C202"),
        ('{"mqtt": {"port": ' + "9" * 5_000 + "}}", "C202"),
        ('{"mqtt": {"topic": "\\ud800"}}', "C202"),
        ("[" * 100, "C202"),
    ],
)
def test_what_is_not_json_is_pointed_at(folder, text, code):
    write(folder, "comm", text)
    assert findings(folder) == [f"comm.conf {code}"]


@pytest.mark.parametrize(
    ("host", "peers", "expected"),
    [
        ("10.1.0.1", ["10.1.0.2", "fd00::/64", "10.0.0.0/8", "fc00::/7"], []),
        ("0.0.0.0", ["10.1.0.0/24"], []),
        ("::", ["::ffff:10.1.0.0/120"], []),
        ("fe80::1%eth0", ["fe80::/64"], []),
        ("10.1.0.1", ["10.1.0.2/24"], ["comm.conf C213"]),
        ("10.1.0.1", ["edge-2"], ["comm.conf C213"]),
        ("10.1.0.1", ["fe80::1%eth0"], ["comm.conf C213"]),
        ("10.1.0.1", ["10.1.0.2:5000", ""], ["comm.conf C213"] * 2),
        ("10.1.0.1", [7, "10.1.0.2"], ["comm.conf C205"]),
        ("10.1.0.1", ["0.0.0.0/0", "10.1.0.2"], ["comm.conf C214"]),
        ("10.1.0.1", ["0.0.0.0/1", "128.0.0.0/1"], ["comm.conf C214"]),
        ("10.1.0.1", ["10.0.0.0/8", "11.0.0.0/8"], ["comm.conf C214"]),
        ("10.1.0.1", ["::ffff:0:0/96"], ["comm.conf C214"]),
        ("10.1.0.1", ["::/0"], ["comm.conf C214"]),
        ("10.1.0.1", ["2000::/8"], ["comm.conf C214"]),
        ("edge-1", ["10.1.0.2"], ["comm.conf C215"]),
        ("[fd00::1]", ["fd00::2"], ["comm.conf C215"]),
        ("224.0.0.1", ["10.1.0.2"], ["comm.conf C215"]),
        ("localhost", ["10.1.0.2"], ["comm.conf C216"]),
        ("::ffff:127.0.0.1", ["10.1.0.2"], ["comm.conf C216"]),
    ],
)
def test_another_address_is_taken_with_the_machines_that_may_reach_it(
    folder, host, peers, expected
):
    edit(folder, "comm", rest__host=host, rest__trusted_peers=peers)
    assert findings(folder) == expected


def test_findings_of_all_files_come_at_once(folder):
    edit(folder, "comm", rest__prt=1)
    edit(folder, "components", component1__config__port=99_999)
    write(folder, "flows", "1\nTO compnent1 1\nGET\n")
    (folder / "load_balancer.conf").unlink()
    write(folder, "nodes", "nonsense")
    assert findings(folder) == [
        "comm.conf C203",
        "components.conf C206",
        "flows.conf F104",
        "load_balancer.conf C201",
        "nodes.conf C202",
    ]


def test_a_mistake_in_components_is_said_once(folder):
    text = (folder / "components.conf").read_text()
    write(folder, "components", text.replace('"component1":', '"component1"'))
    assert findings(folder) == ["components.conf C202"]


def test_a_folder_without_a_configuration_is_said_in_one_line(tmp_path):
    assert findings(tmp_path) == ["comm.conf C201"]


def test_a_missing_file_says_nothing_about_what_it_would_have_said(folder):
    (folder / "components.conf").unlink()
    assert findings(folder) == ["components.conf C201"]


def test_bytes_that_are_not_utf8_are_a_finding(folder):
    (folder / "flows.conf").write_bytes(b"1\nTO component1 1\nGET\n# \xff\n")
    (folder / "nodes.conf").write_bytes(b'{"\xff": 1}')
    assert findings(folder) == ["flows.conf F113", "nodes.conf C202"]


def test_keys_of_other_programs_are_warned_about_only(folder):
    edit(folder, "comm", vendor_extension={"a": 1})
    assert findings(folder) == ["comm.conf C203"]
    assert len(load(folder, {}).warnings) == 1


def test_a_component_that_no_flow_calls_is_warned_about(folder):
    components = json.loads((folder / "components.conf").read_text())
    write(folder, "components", {"spare": components["component1"], **components})
    (warning,) = load(folder, {}).warnings
    assert warning.headline() == (
        'components.conf:1:2: warning[C211]: no flow calls component "spare"'
    )


def test_of_a_component_that_was_misspelt_only_the_slip_is_said(folder):
    flows = (folder / "flows.conf").read_text()
    (folder / "flows.conf").write_text(flows.replace("TO component3", "TO compnent3"))
    assert findings(folder) == ["flows.conf F104"]


def test_of_very_many_findings_a_thousand_of_each_file_are_shown(folder):
    write(folder, "comm", {f"other{number}": 1 for number in range(1_500)})
    (folder / "flows.conf").write_text("1\nTO component1 1\n" + "POST paylod\n" * 1_500)
    shown = findings(folder)
    assert Counter(shown) == {
        "comm.conf C203": 1_000, "comm.conf C212": 1,
        "flows.conf F107": 1_000, "flows.conf F136": 1,
    }  # fmt: skip
    assert [shown[1_000], shown[-1]] == ["comm.conf C212", "flows.conf F136"]


SECRET = "pa$s"


@pytest.mark.parametrize(
    "text",
    [
        '{"mqtt": {"password": "pa$sw0rd-tail", "prt": 1}}',
        '{"mqtt": {"password": "\\"pa$s", "prt": 1}}',
        '{"mqtt": {"password": "${env:pa$s", "prt": 1}}',
        '{"mqtt": {"pasword": "pa$sw0rd"}}',
        '{"mqtt": {"password": ["pa$s"]}}',
        '{"headers": {"Authorization": "Bearer pa$s", "X": "pa$s"}, "mqtt": {"prt": 1}}',
        "{'mqtt': {'password': 'pa$sw0rd'}}",
        '{"mqtt": {"password" "pa$s"}}',
        '{"mqtt": {"password": "pa$s}}',
        '{"mqtt": {password: pa$s}}',
    ],
)
def test_a_secret_is_not_shown_with_the_line_that_it_stands_on(folder, text):
    write(folder, "comm", text)
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    shown = "".join(finding.render() for finding in rejected.value.findings)
    assert SECRET not in shown
    assert "****" in shown


def test_what_is_no_secret_is_shown_with_its_line(folder):
    line = '{"mqtt": {"topic": "password", "password": "x", "prt": 1, "host": "h"}}'
    write(folder, "comm", line)
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    assert rejected.value.findings[0].text_line == line.replace('"x"', '"*"')


def test_a_file_that_is_referred_to_and_cannot_be_read_is_a_finding(folder):
    edit(folder, "comm", mqtt__password="${file:secret}")
    texts = {file: (folder / file).read_text() for file in FILES}
    secret = folder.parent / "secret"
    secret.write_text("x")
    secret.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)  # root may read everything
    try:
        with pytest.raises(ConfigRejected) as rejected:
            compile_config(texts, folder, {})
    finally:
        if root:
            os.seteuid(0)
    assert [finding.code for finding in rejected.value.findings] == ["C207"]


def test_an_address_whose_variable_is_not_there_is_not_called_missing_too(folder):
    edit(folder, "nodes", **{"1__config__ip": "${env:NONE}", "2__config__ip": "${env:EMPTY}"})
    assert findings(folder, EMPTY="") == ["nodes.conf C207", "nodes.conf C204"]


def test_a_variable_that_is_not_utf8_is_a_finding(folder):
    edit(folder, "nodes", **{"1__config__endpoint": "${env:ODD}"})
    assert "nodes.conf C207" in findings(folder, ODD=os.fsdecode(b"\xff"))


def test_the_digest_names_the_content_of_secrets_too(folder):
    secret = folder.parent / "secret"
    secret.write_text("a")
    edit(folder, "comm", mqtt__password="${file:secret}")
    first = load(folder, {}).config.digest
    assert load(folder, {}).config.digest == first
    secret.write_text("b")
    assert load(folder, {}).config.digest != first


def test_every_code_has_a_paragraph_in_the_reference():
    reference = (ROOT / "docs" / "reference" / "findings.md").read_text()
    missing = [code for code in CODES if f"### {code}" not in reference]
    assert missing == []


# --- changes on the disk ----------------------------------------------------------------------


def test_a_change_that_has_come_to_rest_is_one_until_it_is_taken(folder):
    watch = Watch(folder)
    assert not watch.changed()
    write(folder, "flows", "1\n")
    assert not watch.changed()  # it may still be written
    assert watch.changed()
    assert watch.changed()
    watch.take()
    assert not watch.changed()


def test_what_changes_while_it_is_read_is_a_change(folder):
    watch = Watch(folder)
    load(folder, {})
    write(folder, "flows", "1\n")
    watch.refer_to([])
    assert [watch.changed(), watch.changed()] == [False, True]


def test_files_that_are_still_being_written_are_left_alone(folder):
    watch = Watch(folder)
    for n in range(4):
        write(folder, "flows", "x" * n)
        assert not watch.changed()
    assert watch.changed()


def test_a_file_that_vanishes_or_is_replaced_is_a_change(folder):
    watch = Watch(folder)
    (folder / "nodes.conf").unlink()
    assert [watch.changed(), watch.changed()] == [False, True]
    watch.take()
    write(folder, "nodes", {})
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_secret_that_is_renewed_is_a_change(folder):
    secret = folder.parent / "secret"
    secret.write_text("a")
    watch = Watch(folder)
    watch.refer_to([secret])
    secret.write_text("bb")
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_secret_that_becomes_readable_is_a_change(folder):
    secret = folder.parent / "secret"
    secret.write_text("a")
    secret.chmod(0)
    watch = Watch(folder)
    watch.refer_to([secret])
    secret.chmod(0o600)
    assert [watch.changed(), watch.changed()] == [False, True]


def test_a_rejected_configuration_says_which_files_could_mend_it(folder):
    edit(folder, "comm", mqtt__password="${file:secret}")
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    assert rejected.value.referenced == [folder.parent / "secret"]


def test_what_changes_while_it_is_read_is_not_still(folder):
    watch = Watch(folder)
    write(folder, "flows", "1\n")
    watch.changed()
    assert watch.changed()
    watch.take()
    assert watch.still()
    write(folder, "flows", "1\n\n")
    assert not watch.still()


def test_what_pause_asks_for_survives(tmp_path):
    assert read_control(tmp_path) == Control()
    write_control(tmp_path, Control(paused=True, release_parked_before_ms=5))
    assert read_control(tmp_path) == Control(paused=True, release_parked_before_ms=5)
    assert [path.name for path in tmp_path.iterdir()] == ["control.json"]
    (tmp_path / "control.json").write_text("{broken")
    with pytest.raises(ControlUnreadable, match=r"control\.json cannot be read: .*resume"):
        read_control(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_what_root_asks_for_belongs_to_the_owner_of_the_state_folder(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    write_control(tmp_path, Control(paused=True))
    assert (tmp_path / "control.json").stat().st_uid == 65534


# --- JSON with places -------------------------------------------------------------------------


def plain(value: Value) -> object:
    if isinstance(value.plain, dict):
        return {key: plain(inner) for key, inner in value.plain.items()}
    if isinstance(value.plain, list):
        return [plain(inner) for inner in value.plain]
    return value.plain


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(_json, st.sampled_from([None, 0, 3]))
def test_json_means_what_it_means_elsewhere(value, indent):
    assert plain(parse_json(json.dumps(value, indent=indent))) == value


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\t\\x', max_size=40))
def test_what_is_refused_elsewhere_is_refused_here(text):
    def constant(name):
        raise ValueError(name)

    def object_(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("twins")
        return dict(pairs)

    try:
        expected = json.loads(text, parse_constant=constant, object_pairs_hook=object_)
    except ValueError:
        with pytest.raises(JsonFault):
            parse_json(text)
    else:
        found = plain(parse_json(text))
        assert found == expected or (isinstance(found, float) and math.isinf(found))


def test_places_are_lines_and_columns():
    value = parse_json('{\n  "a": 1,\n  "bc": [true]\n}')
    assert (value.keys["bc"].line, value.keys["bc"].column, value.keys["bc"].width) == (3, 3, 4)
    inner = value.plain["bc"].plain[0].place
    assert (inner.line, inner.column, inner.width) == (3, 10, 4)


# --- whatever the files hold --------------------------------------------------------------------

_odd = st.sampled_from([
    "${file:none}", "${file:a\0b}", "${file:.}", "${env:NONE}", "${env:\ud800}", "\ud800", "\0", "",
    "a\r\nb", "主机", "..", "x" * 300, int("9" * 400), -1, 1e999, True, None, [], {}, {"x": {}},
    float("9" * 30), "/{b:foo}", "0.0.0.0", "1.2.3", "-", "2",
])  # fmt: skip


def places(content: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The path of every value in a JSON value."""
    found = [path]
    for key, inner in content.items() if isinstance(content, dict) else ():
        found += places(inner, (*path, key))
    return found


@st.composite
def spoiled(draw, file: str) -> bytes:
    """The shipped file, or what is left of it."""
    whole = (SHIPPED / file).read_bytes()
    how = draw(st.sampled_from(["whole", "bytes", "cut", "value"]))
    if how == "bytes":
        return draw(st.binary(max_size=60))
    if how == "cut":
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
        return whole[:first] + draw(st.binary(max_size=8)) + whole[last:]
    if how == "whole" or file == "flows.conf":
        return whole
    content = json.loads(whole)
    *outer, last = draw(st.sampled_from(places(content)[1:]))
    inner = content
    for key in outer:
        inner = inner[key]
    inner[draw(st.sampled_from([last, *KEYS]))] = draw(_odd | _json)
    return json.dumps(content).encode()


KEYS = ("password", "headers", "tls", "path", "id", "drain_s", "limit", "body", "client_id", "log",
        "state", "node", "recovery")  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("any") / "config_files"


@settings(max_examples=300)
@given(st.fixed_dictionaries({file: spoiled(file) for file in FILES}))
def test_whatever_the_files_hold_there_is_a_configuration_or_findings(scratch, contents):
    scratch.mkdir(exist_ok=True)
    for file, content in contents.items():
        (scratch / file).write_bytes(content)
    try:
        compiled = load(scratch, os.environ)
    except ConfigRejected as rejected:
        assert rejected.findings
        assert "".join(finding.render() for finding in rejected.findings).encode()
    else:
        assert isinstance(compiled, Compiled)


@pytest.mark.parametrize("number", ["1e999", "-1e400", "9" * 310])
def test_a_number_that_no_double_holds_is_a_finding_where_it_stands(number):
    with pytest.raises(JsonFault, match="too large for a double") as caught:
        parse_json(f'{{"a": [1,\n {number}]}}')
    assert (caught.value.code, caught.value.place.line, caught.value.place.column) == ("C206", 2, 2)
    assert caught.value.place.width == len(number)

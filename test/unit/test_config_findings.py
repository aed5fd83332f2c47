"""Findings about invalid configuration files."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from config_files import ROOT, copy_shipped, edit, findings, write
from fractal_rm.config.key_reader import MAX_MASKED
from fractal_rm.config.load import load
from fractal_rm.domain.findings import CODES, ConfigRejected


@pytest.fixture
def folder(tmp_path):
    return copy_shipped(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("comm", {"mqtt__topik": "x"}, "comm.conf C203"),
        ("comm", {"mqtt__port": "1883"}, "comm.conf C205"),
        ("comm", {"mqtt__port": 0}, "comm.conf C206"),
        ("comm", {"mqtt__port": True}, "comm.conf C205"),
        ("comm", {"mqtt__client_id": "2"}, "comm.conf C206"),
        ("comm", {"mqtt": 1}, "comm.conf C205"),
        ("comm", {"rest__host": "10.0.0.7", "rest__tls": {"cert": "x.pem"}}, "comm.conf C217"),
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
        ("comm", {"rest__endpoint": "/v1/node"}, "comm.conf C206"),
        ("comm", {"rest__endpoint": "/v1/runs"}, "comm.conf C206"),
        ("comm", {"rest__endpoint": "/readyz"}, "comm.conf C206"),
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
def test_an_invalid_value_is_a_finding(folder, name, changes, expected):
    edit(folder, name, **changes)
    if expected is not None:
        assert expected in findings(folder)


@pytest.mark.parametrize(
    ("keys", "code", "text", "hint"),
    [
        ({"rate": "10/m"}, "C206", 'rate is "10/m", which is not a rate', 'did you mean "10/min"?'),
        ({"rate": "many"}, "C206", 'rate is "many", which is not a rate',
         "from 1 to 100,000: a rate is a number, a slash, and s, min or h, such as 10/s"),
        ({"rate": 10}, "C205", "component1.config.rate must be a text, not a whole number", None),
        ({"circuit": "on"}, "C205",
         "component1.config.circuit must be an object or true or false, not a text", None),
        ({"circuit": {"failures": 2}}, "C206",
         "component1.config.circuit.failures must be from 0.01 to 1", None),
        ({"circuit": {"waiting": -1}}, "C206",
         "component1.config.circuit.waiting must be from 0 to 10000", None),
        ({"circuit": {"open": 5}}, "C203",
         "component1.config.circuit.open is not known", 'did you mean "open_s"?'),
        ({"idempotent": False, "probe": "don"}, "C206",
         'probe is "don", which is not in endpoints', 'did you mean "done"?'),
        ({"idempotent": False, "probe": "x"}, "C206",
         'probe is "x", which is not in endpoints', 'there is "1", "2", "done"'),
        ({"probe": "done"}, "C229",
         "probe has no effect: calls to an idempotent component are repeated", None),
    ],
)  # fmt: skip
def test_what_limits_the_calls_to_a_component_is_checked(folder, keys, code, text, hint):
    endpoints = {"1": "x", "2": "y", "done": "z"}
    target = {"protocol": "http", "ip": "a", "port": 1, "endpoints": endpoints}
    edit(folder, "components", component1__config={**target, **keys})
    found = [each for each in all_findings(folder) if each.file == "components.conf"]
    assert [(each.code, each.text, each.help) for each in found] == [(code, text, hint)]


def all_findings(folder):
    """The findings of a configuration, warnings included."""
    try:
        return load(folder, {}).warnings
    except ConfigRejected as rejected:
        return rejected.findings


def test_an_invalid_value_that_is_read_twice_is_reported_once(folder):
    edit(folder, "nodes", **{"1__config__timeout_s": 0, "1__id": 2.5})
    assert findings(folder) == ["nodes.conf C205", "nodes.conf C206"]


def test_a_value_of_a_wrong_type_is_not_also_reported_as_missing(folder):
    edit(folder, "components", component1__config__endpoints=["/a"], component2__config=7)
    edit(folder, "nodes", **{"1__config__protocol": 7})
    codes = [each for each in findings(folder) if not each.startswith("flows")]
    assert codes == ["components.conf C205"] * 2 + ["nodes.conf C205"]


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
def test_invalid_json_is_a_finding(folder, text, code):
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
def test_an_address_that_is_not_loopback_needs_trusted_peers(folder, host, peers, expected):
    edit(folder, "comm", rest__host=host, rest__trusted_peers=peers)
    assert findings(folder) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"trusted_proxies": ["127.0.0.1", "::1"]}, []),
        ({"trusted_proxies": ["127.0.0.0/8"], "trusted_peers": ["10.1.0.2"]}, []),
        ({"trusted_proxies": ["10.1.0.2"]}, ["comm.conf C216"]),
        ({"trusted_proxies": ["proxy.example"]}, ["comm.conf C216", "comm.conf C213"]),
        ({"trusted_proxies": ["127.0.0.1", "0.0.0.0/0"]}, ["comm.conf C214"]),
        ({"trusted_proxies": ["10.1.0.2"], "host": "10.1.0.1"}, ["comm.conf C208"]),
        ({"public_url": "https://fractal.example"}, []),
        ({"public_url": "http://[2001:db8::1]:8080/"}, []),
        ({"public_url": "https://fractal.example/path"}, ["comm.conf C233"]),
        ({"public_url": "fractal.example"}, ["comm.conf C233"]),
        ({"public_url": "ftp://fractal.example"}, ["comm.conf C233"]),
        ({"public_url": "https://user@fractal.example"}, ["comm.conf C233"]),
        ({"public_url": "https://fractal.example:70000"}, ["comm.conf C233"]),
        ({"public_url": "https://bücher.example"}, ["comm.conf C233"]),
        ({"public_url": "https://"}, ["comm.conf C233"]),
        ({"peer_rate": 0}, ["comm.conf C206"]),
        ({"peer_rate": 1.5}, ["comm.conf C205"]),
    ],
)
def test_proxies_and_the_rate_of_peers_are_checked(folder, changes, expected):
    edit(folder, "comm", **{f"rest__{key}": value for key, value in changes.items()})
    assert findings(folder) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"token": "${env:TOKEN}"}, ["C230"]),
        ({"token": "${env:TOKEN}", "protocol": "https"}, []),
        ({"token": "${env:TOKEN}", "ip": "127.0.0.1"}, []),
        ({"token": "written-here", "protocol": "https"}, ["C218"]),
        ({"token": "not a token", "protocol": "https"}, ["C206"]),
        ({"tls": {"server_name": "node-1.example"}, "protocol": "https"}, []),
        ({"tls": {"server_name": "2001:db8::1"}, "protocol": "https"}, []),
        ({"tls": {"server_name": "${env:TOKEN}"}, "protocol": "https"}, []),
        ({"tls": {"server_name": "https://node-1"}, "protocol": "https"}, ["C206"]),
    ],
)
def test_the_token_and_the_server_name_of_a_node_are_checked(folder, changes, expected):
    edit(folder, "nodes", **{"1__config__ip": "10.1.0.1"})
    edit(folder, "nodes", **{f"1__config__{key}": value for key, value in changes.items()})
    assert findings(folder, TOKEN="t") == [f"nodes.conf {code}" for code in expected]


def test_the_findings_of_all_files_are_reported_together(folder):
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


def test_an_unreadable_components_file_causes_no_findings_in_flows(folder):
    text = (folder / "components.conf").read_text()
    write(folder, "components", text.replace('"component1":', '"component1"'))
    assert findings(folder) == ["components.conf C202"]


def test_a_folder_without_a_configuration_has_one_finding(tmp_path):
    assert findings(tmp_path) == ["comm.conf C201"]


def test_a_missing_file_causes_no_findings_in_other_files(folder):
    (folder / "components.conf").unlink()
    assert findings(folder) == ["components.conf C201"]


def test_bytes_that_are_not_utf8_are_a_finding(folder):
    (folder / "flows.conf").write_bytes(b"1\nTO component1 1\nGET\n# \xff\n")
    (folder / "nodes.conf").write_bytes(b'{"\xff": 1}')
    assert findings(folder) == ["flows.conf F113", "nodes.conf C202"]


def test_keys_of_other_programs_are_only_warnings(folder):
    edit(folder, "comm", vendor_extension={"a": 1})
    assert findings(folder) == ["comm.conf C203"]
    assert len(load(folder, {}).warnings) == 1


def test_a_component_without_a_call_in_any_flow_causes_a_warning(folder):
    components = json.loads((folder / "components.conf").read_text())
    write(folder, "components", {"spare": components["component1"], **components})
    (warning,) = load(folder, {}).warnings
    assert warning.headline() == (
        'components.conf:1:2: warning[C211]: no flow calls component "spare"'
    )


def test_a_component_whose_name_is_misspelt_in_a_flow_is_not_reported_as_unused(folder):
    flows = (folder / "flows.conf").read_text()
    (folder / "flows.conf").write_text(flows.replace("TO component3", "TO compnent3"))
    assert findings(folder) == ["flows.conf F104"]


def test_at_most_a_thousand_findings_of_a_file_are_shown(folder):
    write(folder, "comm", {f"other{number}": 1 for number in range(1_500)})
    (folder / "flows.conf").write_text("1\nTO component1 1\n" + "POST paylod\n" * 1_500)
    codes = findings(folder)
    assert Counter(codes) == {
        "comm.conf C203": 1_000, "comm.conf C212": 1,
        "flows.conf F107": 1_000, "flows.conf F136": 1,
    }  # fmt: skip
    assert [codes[1_000], codes[-1]] == ["comm.conf C212", "flows.conf F136"]


def test_tls_without_https_is_a_warning(folder):
    edit(folder, "components", component1__config__tls={"ca": "ca.pem"})
    for protocol, codes in (("http", ["C229"]), ("https", [])):
        edit(folder, "components", component1__config__protocol=protocol)
        assert [finding.code for finding in load(folder, {}).warnings] == codes


def test_the_hint_for_an_address_in_brackets_is_to_remove_the_brackets(folder):
    edit(folder, "components", component1__config__ip="[::1]:80")
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    assert "without brackets" in rejected.value.findings[0].render()


def test_the_key_after_silence_causes_a_warning_if_the_peer_runs_this_program(folder):
    edit(folder, "nodes", **{"1__config__peer": "fractal", "1__config__after_silence": "unknown"})
    assert [finding.code for finding in load(folder, {}).warnings] == ["C229"]


def test_a_flow_whose_topic_is_the_trigger_topic_causes_a_warning(folder):
    edit(folder, "comm", mqtt__topic="$share/nodes/plant/#")
    flows = (folder / "flows.conf").read_text()
    for flow, topic in (("8", "plant/+/frame"), ("9", "plants/a")):
        flows += f"\n\n{flow}\nON {topic}\nTO component1 1\nGET\n"
    (folder / "flows.conf").write_text(flows)
    (warning,) = load(folder, {}).warnings
    assert (
        "flow 8 has ON plant/+/frame, but messages on this topic are triggers" in warning.headline()
    )
    assert "[C222]" in warning.headline()


def test_a_topic_with_a_prefix_that_emqx_removes_causes_a_warning(folder):
    edit(folder, "comm", mqtt__topic="$queue/plant")
    (warning,) = load(folder, {}).warnings
    assert "[C219]" in warning.headline()


def test_every_code_has_a_paragraph_in_the_reference():
    reference = (ROOT / "docs" / "reference" / "findings.md").read_text()
    missing = [code for code in CODES if f"### {code}" not in reference]
    assert missing == []

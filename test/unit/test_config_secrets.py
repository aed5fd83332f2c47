"""References to environment variables and files, and secrets in a configuration."""

from __future__ import annotations

import os

import pytest

from config_files import copy_shipped, edit, findings, write
from fractal_rm.config.compile import FILES, compile_config
from fractal_rm.config.load import load
from fractal_rm.domain.findings import ConfigRejected
from keys import encrypted_key


@pytest.fixture
def folder(tmp_path):
    return copy_shipped(tmp_path)


def test_a_secret_is_read_from_the_environment_or_a_file(folder):
    (folder.parent / "secret").write_text("\ufefffrom a file\n")
    edit(folder, "comm", mqtt__username="${env:RM_USER}", mqtt__password="${file:secret}")
    compiled = load(folder, {"RM_USER": "from the environment"})
    assert compiled.config.mqtt.username == "from the environment"
    assert compiled.config.mqtt.password == "from a file"
    assert compiled.referenced == [folder.parent / "secret"]


def test_an_unresolved_variable_is_reported_once_at_each_place(folder):
    missing = "${env:NOT_THERE}"
    edit(folder, "comm", mqtt__topic=missing, mqtt__host=[missing])
    edit(folder, "nodes", **{"1__config__protocol": missing})
    assert findings(folder) == ["comm.conf C207", "comm.conf C207", "nodes.conf C207"]


def test_an_unresolved_file_is_reported_once_at_each_place(folder):
    missing = "${file:not there}"
    edit(folder, "comm", mqtt__tls={"cert": missing, "key": "key.pem"})
    edit(folder, "comm", rest__host="0.0.0.0", rest__trusted_peers=[missing])
    for node in ("1", "2"):
        edit(folder, "nodes", **{f"{node}__config__ip": missing})
    assert findings(folder) == ["comm.conf C207"] * 2 + ["nodes.conf C207"] * 2


def test_an_unresolved_reference_gives_no_findings_about_its_value(folder):
    missing = "${env:NOT_THERE}"
    write(folder, "flows", "11\nTO component1 1\nGET\n")
    cert, _ = encrypted_key(folder, "with its certificate")
    edit(folder, "comm", mqtt__tls={"cert": str(cert), "key": missing})
    edit(folder, "comm", state__path=missing, log__path="state/rm")
    edit(folder, "nodes", **{"1__config__peer": missing})
    assert findings(folder) == ["comm.conf C207"] * 2 + ["nodes.conf C207"]


def test_an_unresolved_reference_does_not_hide_other_errors(folder):
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
    for name, tls_key in {
        "components": "component1__config__tls",
        "nodes": "1__config__tls",
        "load_balancer": "tls",
        "comm": "mqtt__tls",
    }.items():
        text_before = (folder / f"{name}.conf").read_text()
        use_https = {} if name == "comm" else {tls_key.replace("tls", "protocol"): "https"}
        edit(folder, name, **{tls_key: tls}, **use_https)
        assert findings(folder) == [f"{name}.conf C225"]
        (folder / f"{name}.conf").write_text(text_before)
    edit(folder, "components", component1__config__protocol="https")
    if key:
        key.write_bytes(b"\xef\xbb\xbf" + key.read_bytes())
        edit(folder, "components", component1__config__tls=tls)
        assert findings(folder) == ["components.conf C225"]
        plain_pem = folder / "plain.pem"
        # The first key in the file is used, and needs no passphrase.
        plain_pem.write_bytes(plain_pem.read_bytes() + key.read_bytes())
    plain = {"cert": str(cert), "key": str(folder / "plain.pem")}
    edit(folder, "components", component1__config__tls=plain)
    assert findings(folder) == []


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
        '{"token": "pa$s", "mqtt": {"prt": 1}}',
    ],
)
def test_a_secret_in_a_shown_line_is_masked(folder, text):
    write(folder, "comm", text)
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    output = "".join(finding.render() for finding in rejected.value.findings)
    assert SECRET not in output
    assert "****" in output


def test_only_secrets_in_a_shown_line_are_masked(folder):
    line = '{"mqtt": {"topic": "password", "password": "x", "prt": 1, "host": "h"}}'
    write(folder, "comm", line)
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    assert rejected.value.findings[0].text_line == line.replace('"x"', '"*"')


def test_a_referenced_file_that_cannot_be_read_is_a_finding(folder):
    edit(folder, "comm", mqtt__password="${file:secret}")
    files = {name: (folder / name).read_text() for name in FILES}
    secret = folder.parent / "secret"
    secret.write_text("x")
    secret.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)  # nobody: root could read the file
    try:
        with pytest.raises(ConfigRejected) as rejected:
            compile_config(files, folder, {})
    finally:
        if is_root:
            os.seteuid(0)
    assert [finding.code for finding in rejected.value.findings] == ["C207"]


def test_an_address_with_an_unset_variable_is_not_also_reported_as_missing(folder):
    edit(folder, "nodes", **{"1__config__ip": "${env:NONE}", "2__config__ip": "${env:EMPTY}"})
    assert findings(folder, EMPTY="") == ["nodes.conf C207", "nodes.conf C204"]


def test_a_variable_that_is_not_utf8_is_a_finding(folder):
    edit(folder, "nodes", **{"1__config__endpoint": "${env:ODD}"})
    assert "nodes.conf C207" in findings(folder, ODD=os.fsdecode(b"\xff"))


def test_the_digest_includes_the_content_of_secrets(folder):
    secret = folder.parent / "secret"
    secret.write_text("a")
    edit(folder, "comm", mqtt__password="${file:secret}")
    first = load(folder, {}).config.digest
    assert load(folder, {}).config.digest == first
    secret.write_text("b")
    assert load(folder, {}).config.digest != first


def test_a_rejected_configuration_lists_the_files_that_it_refers_to(folder):
    edit(folder, "comm", mqtt__password="${file:secret}")
    with pytest.raises(ConfigRejected) as rejected:
        load(folder, {})
    assert rejected.value.referenced == [folder.parent / "secret"]

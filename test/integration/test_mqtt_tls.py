"""MQTT over TLS: the reasons of refused connections are reported."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct

import pytest
import trustme

from client_certificates import client_certificate_server
from fractal_rm.adapters.mqtt import connect_loop
from fractal_rm.adapters.mqtt import connection as connection_module
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.call import Tls
from keys import encrypted_key
from mqtt_stage import (
    MqttStage,
    brokers_at,
    until,
)
from ports import free_port


@pytest.fixture
def short_times(monkeypatch):
    """Shorten the pauses between connects, and the wait for a CONNACK."""
    monkeypatch.setattr(connect_loop, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(connection_module, "OPEN_LIMIT_S", 1.0)


async def test_an_encrypted_key_is_reported_without_a_prompt_for_its_passphrase(tmp_path):
    cert, key = encrypted_key(tmp_path, "pkcs8")
    tls = Tls(cert=str(cert), key=str(key))
    way_in = MqttStage(tmp_path, Mqtt(tls=tls))
    await way_in.start()
    await until(lambda: "is encrypted: the Runtime Manager cannot ask" in way_in.status().text)
    assert f"the key file {tls.key}" in way_in.status().text
    await way_in.stop()


async def test_a_missing_client_certificate_is_reported_and_does_not_change_the_mqtt_version(
    tmp_path, short_times
):
    with client_certificate_server(tmp_path) as (port, ca):
        way_in = MqttStage(tmp_path, Mqtt(brokers=brokers_at(port), tls=Tls(ca=ca)))
        await way_in.start()
        await until(lambda: len(way_in.telemetry.fields_of("mqtt_disconnected")) > 3)
        await way_in.stop()
    for end in way_in.telemetry.fields_of("mqtt_disconnected"):
        assert "TLS was refused: the server asks for a certificate" in end["reason"]


async def test_a_reset_after_the_tls_handshake_does_not_change_the_mqtt_version(
    tmp_path, short_times
):
    async def reset(reader, writer):
        linger = struct.pack("ii", 1, 0)  # with these values, a close sends a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await reader.read(1)
        writer.transport.abort()

    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = await asyncio.start_server(reset, "127.0.0.1", port := free_port(), ssl=context)
    mqtt = Mqtt(brokers=brokers_at(port), tls=Tls(ca=str(tmp_path / "ca.pem")))
    way_in = MqttStage(tmp_path, mqtt)
    await way_in.start()
    await until(lambda: len(way_in.telemetry.fields_of("mqtt_disconnected")) > 3)
    await way_in.stop()
    server.close()
    for end in way_in.telemetry.fields_of("mqtt_disconnected"):
        assert "the broker reset the connection right after the TLS handshake" in end["reason"]

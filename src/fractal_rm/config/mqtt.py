"""Reads the section ``mqtt`` of comm.conf: the brokers, the topic of triggers, the client id."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import UNSET

from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.config.section import Section
from fractal_rm.config.targets import is_valid_host, read_tls
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.topic import (
    MAX_BYTES,
    covers,
    filter_fault,
    forbidden_character,
    matches,
    name_fault,
    status_topic,
)

MAX_BROKERS = 16
_EMQX_PREFIXES = ("$queue/", "$exclusive/")
# One of: "[IPv6]:port", "[IPv6]", "name:port", "name", or an IPv6 address without brackets.
_ADDRESS = re.compile(
    r"(?:\[(?P<v6>[^\[\]]*:[^\[\]]*)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[0-9]{1,5}))?"
    r"|(?P<bare>[^\[\]:]*:[^\[\]:]*:[^\[\]]*)"
)


def read_mqtt(section: Section | None) -> Mqtt:
    """Read the section ``mqtt``. Returns the defaults if ``section`` is None.

    Adds a finding for each wrong value.
    """
    default = Mqtt()
    if section is None:
        return default
    mqtt = Mqtt(
        topic=section.text("topic", default.topic) or "",
        brokers=_brokers(section),
        version=_version(section),
        keepalive=section.integer("keepalive", default.keepalive, 1, 65_535),
        username=section.text("username"),
        password=section.text("password"),
        tls=read_tls(section),
        client_id=section.text("client_id"),
        session_expiry_s=section.integer(
            "session_expiry_s", default.session_expiry_s, 0, 0xFFFFFFFF
        ),
        receive_maximum=section.integer("receive_maximum", default.receive_maximum, 1, 65_535),
        retained=section.flag("retained", default.retained),
    )
    _check_credentials(section, mqtt)
    _check_client_id(section, mqtt.client_id)
    _check_topic(section, mqtt)
    section.finish()
    return mqtt


def warn_of_trigger_topics(comm: Section, topic: str, flows: Mapping[str, Flow]) -> None:
    """Warn of each flow with an ON topic that is part of ``topic``, the topic of triggers.

    Messages on such a topic are read as triggers, so they do not start the flow by ON.
    """
    section = comm.section("mqtt") or comm
    for flow in flows.values():
        for each in () if flow.starts is UNSET else flow.starts.topics:
            if covers(topic, each):
                text = f"flow {flow.id} has ON {each}, but messages on this topic are triggers"
                section.warn("topic", "C222", text)


def _brokers(section: Section) -> tuple[Broker, ...]:
    default = Mqtt().brokers[0]
    port = section.integer("port", default.port, 1, 65_535)
    hosts = section.texts("host", allow_single=True) or [default.host]
    if len(hosts) > MAX_BROKERS:
        section.bad("host", f"mqtt.host has {len(hosts)} brokers; the maximum is {MAX_BROKERS}",
                    code="C221")  # fmt: skip
    brokers = [_broker(host, port) for host in hosts]
    for host, broker in zip(hosts, brokers, strict=True):
        if broker is None:
            section.bad("host", f'"{host:.60}" is not the address of a broker',
                        "write a name or an address, with :port if the port is not mqtt.port; an"
                        " IPv6 address with a port as [::1]:1883; several brokers as a list",
                        "C221")  # fmt: skip
    return tuple(broker for broker in brokers if broker is not None) or (default,)


def _broker(host: str, port: int) -> Broker | None:
    address = _ADDRESS.fullmatch(host)
    if address is None:
        return None
    name = address["v6"] or address["name"] or address["bare"]
    own_port = int(address["port"] or port)
    return Broker(name, own_port) if is_valid_host(name) and 1 <= own_port <= 65_535 else None


def _version(section: Section) -> str | None:
    version = section.identifier("version", "") or None
    if version not in (None, "5", "3.1.1"):
        section.bad("version", f'mqtt.version is "{version}"', 'write "5" or "3.1.1"')
    return version


def _check_credentials(section: Section, mqtt: Mqtt) -> None:
    for key, text in (("username", mqtt.username or ""), ("password", mqtt.password or "")):
        if len(text.encode()) > MAX_BYTES:
            section.bad(
                key, f"mqtt.{key} has more than {MAX_BYTES} bytes, too many for an MQTT packet"
            )
    character = forbidden_character(mqtt.username or "")
    if character:
        section.bad(
            "username", f"mqtt.username has {character}: brokers would close the connection"
        )


def _check_client_id(section: Section, client_id: str | None) -> None:
    if client_id is None:
        return
    if client_id.isdigit():
        section.bad("client_id", "mqtt.client_id is a number: only Load Balancers have such ids",
                    "write a name, such as fractal-rm-1")  # fmt: skip
        return
    fault = name_fault(status_topic(client_id)) if client_id else None
    if fault:
        section.bad("client_id", "mqtt.client_id cannot be part of the topic of the node's status,"
                    f" fractal-rm/<client id>/status: {fault.why}", code="C220")  # fmt: skip


def _check_topic(section: Section, mqtt: Mqtt) -> None:
    fault = filter_fault(mqtt.topic)
    if fault:
        section.bad("topic", f"mqtt.topic: {fault.why}", fault.hint, "C219")
    elif matches(mqtt.topic, status_topic(mqtt.client_id or "fractal-rm-0")):
        text = "mqtt.topic includes fractal-rm/…/status, where nodes publish their status"
        section.bad("topic", text, "write a narrower filter", "C219")
    elif mqtt.topic.startswith(_EMQX_PREFIXES):
        text = (
            "EMQX removes $queue/ and $exclusive/ from the topic, so messages become dead letters"
        )
        section.warn("topic", "C219", f"{text}; write $share/<group>/<topic>")

"""Describes for the operator the features that a broker does not support."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.client import Client, Target
from fractal_rm.adapters.mqtt.node_status import NodeStatus
from fractal_rm.adapters.mqtt.subscriptions import Subscriptions


def unsupported_features(
    target: Target, client: Client, status: NodeStatus, subscriptions: Subscriptions
) -> list[str]:
    """Return the features that the broker does not support, each with the effect on this node."""
    features: list[str] = []
    if not status.published:
        features.append("publishing this node's status: the status is sent only as the will")
    elif not status.retained:
        consequence = "; mqtt.retained has no effect" if target.mqtt.retained else ""
        features.append(
            f"retained messages: only current subscribers get this node's status{consequence}"
        )
    if not target.options.qos or client.limit("max_qos", 2) == 0:
        features.append("QoS 1: triggers can be lost on the network, and nothing can be published")
    elif subscriptions.at_qos_0:
        features.append("QoS 1 for this node's subscriptions: triggers can be lost on the network")
    if not target.options.mqtt_5 and subscriptions.shared:
        features.append("MQTT 5: it is not known whether the broker supports shared subscriptions")
    return features

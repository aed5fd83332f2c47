"""What a broker does not support, in words for the operator."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.client import Client, Target
from fractal_rm.adapters.mqtt.node_status import NodeStatus
from fractal_rm.adapters.mqtt.subscriptions import Subscriptions


def unsupported_features(
    target: Target, client: Client, status: NodeStatus, subscriptions: Subscriptions
) -> list[str]:
    """Each feature that the broker does not support, with what that means here."""
    found: list[str] = []
    if not status.published:
        found.append("publishing this node's status, other than as its will")
    elif not status.retained:
        also = "; mqtt.retained has no effect" if target.mqtt.retained else ""
        found.append(f"retained messages: only current subscribers get this node's status{also}")
    if not target.options.qos or client.limit("max_qos", 2) == 0:
        found.append("QoS 1: a trigger that is lost on the way is lost; nothing can be published")
    elif subscriptions.at_qos_0:
        found.append("QoS 1 for this user's subscriptions: a trigger lost on the way is lost")
    if not target.options.mqtt_5 and subscriptions.shared:
        found.append("MQTT 5, so whether subscriptions can be shared is not known")
    return found

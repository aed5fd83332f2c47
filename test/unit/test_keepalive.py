"""The times after which an MQTT connection is pinged, and after which it counts as dead."""

from __future__ import annotations

import pytest

from fractal_rm.adapters.mqtt.keepalive import KeepAliveAction, keepalive_action


@pytest.mark.parametrize("keepalive_s", [1, 600])
@pytest.mark.parametrize(
    ("received_ago", "sent_ago", "expected"),
    [
        (0.0, 0.0, KeepAliveAction.NOTHING),
        (1.3, 0.6, KeepAliveAction.NOTHING),
        # With a keepalive of 1 s, a NATS server closes the connection after 1 s without a packet.
        (0.0, 0.75, KeepAliveAction.PING),
        (1.3, 0.75, KeepAliveAction.PING),
        (1.45, 0.0, KeepAliveAction.DEAD),
        (1.45, 0.75, KeepAliveAction.DEAD),
    ],
)
def test_a_connection_is_pinged_before_one_keepalive_and_dead_before_two(
    keepalive_s, received_ago, sent_ago, expected
):
    action = keepalive_action(
        keepalive_s,
        received_ago_s=received_ago * keepalive_s,
        sent_ago_s=sent_ago * keepalive_s,
    )
    assert action is expected

"""Receives triggers and publishes messages over MQTT."""

from fractal_rm.adapters.mqtt.session import MqttSession
from fractal_rm.adapters.mqtt.way_in import MqttWayIn

__all__ = ["MqttSession", "MqttWayIn"]

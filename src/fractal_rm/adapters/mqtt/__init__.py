"""Triggers by MQTT."""

from fractal_rm.adapters.mqtt.intake import MqttIntake

__all__ = ["MqttIntake"]

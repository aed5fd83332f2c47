"""The secrets of a configuration, which must not be shown anywhere."""

from __future__ import annotations

from fractal_rm.config.model import Config
from fractal_rm.domain.call import Route

_OWN_HEADERS = frozenset({"host", "user-agent", "accept", "accept-encoding", "content-type"})


def secrets_of(config: Config) -> set[str]:
    """The secrets of the configuration: the MQTT password, and the values of configured headers."""
    routes = [end.get for each in config.components.values() for end in each.endpoints.values()]
    routes += [node.offer for node in config.nodes.values()]
    routes += [config.balancer] if config.balancer else []
    secrets = {config.mqtt.password or ""}
    for route in routes:
        for value in _added_headers(route):
            _, _, last_word = value.rpartition(" ")
            secrets |= {value, last_word}  # "Bearer x" and "x"
    return secrets - {""}


def _added_headers(route: Route) -> list[str]:
    lines = (line.partition(": ") for line in route.head.decode("latin-1").split("\r\n")[1:])
    return [value for name, _, value in lines if name and name.lower() not in _OWN_HEADERS]

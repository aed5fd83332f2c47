"""The keys of the configuration that a running node does not apply."""

from __future__ import annotations

from fractal_rm.config.model import Config

# A change of these keys needs a restart: the node keeps its journal, its log and these ports open.
ONLY_AT_START = ("state_path", "log_path", "log_format", "metrics_port", "traces")


def needs_restart(in_force: Config, on_disk: Config) -> list[str]:
    """The keys that differ and are used only after a restart, such as ``log.path``."""
    return [
        key.replace("_", ".")
        for key in ONLY_AT_START
        if getattr(in_force, key) != getattr(on_disk, key)
    ]

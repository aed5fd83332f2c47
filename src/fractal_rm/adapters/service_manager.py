"""Tells the service manager (systemd) about the state of this process, as sd_notify(3) describes.

Each message is a datagram of lines such as ``READY=1``, sent to the socket in ``NOTIFY_SOCKET``.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from fractal_rm.engine.ports import Telemetry

MAX_STATUS_CHARACTERS = 200


class ServiceManager:
    """Sends messages. It never raises and never blocks: a message that cannot be sent is logged.

    ``address`` is the value of ``NOTIFY_SOCKET``: a path, or ``@`` and the name of an abstract
    socket (unix(7)).
    """

    def __init__(self, address: str, telemetry: Telemetry) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._telemetry = telemetry
        self._socket: socket.socket | None = None
        self._failed = False

    def notify(self, **fields: object) -> None:
        """Send the fields as one message: ``notify(READY=1)``."""
        message = "\n".join(f"{name}={_one_line(str(value))}" for name, value in fields.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._failed:  # once, as there may be a message every second
                self._telemetry.problem("service_manager_not_told", reason=str(error))
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """The time within which the service manager expects each ``WATCHDOG=1``; None: it expects none.

    See sd_watchdog_enabled(3).
    """
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    microseconds = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return microseconds / 1_000_000 or None


def _one_line(text: str) -> str:
    """The text on one line, as a line break would begin another field."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text[:MAX_STATUS_CHARACTERS]

"""Talks to the local socket of a node as a program does that does not follow its rules."""

from __future__ import annotations

import json
import socket
from pathlib import Path


class RawClient:
    """A connection to a local socket. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(20)
        self.connection.connect(str(path))
        self._received = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, content: bytes) -> RawClient:
        self.connection.sendall(content)
        return self

    def ask(self, **request: object) -> dict:
        """Send a request, and return its first answer."""
        return self.send(json.dumps(request).encode() + b"\n").answer()

    def answer(self) -> dict | None:
        """The next answer; None: the connection was closed."""
        while b"\n" not in self._received:
            piece = self.connection.recv(65536)
            if not piece:
                return None
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

"""What the simulators share: JSON over HTTP or HTTPS, with Python's standard library alone."""

from __future__ import annotations

import argparse
import json
import ssl
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST = "127.0.0.1"
CERTIFICATES = Path(__file__).parent / "certificates"
# Of a method, a path and a decoded body: the status and the content of the answer.
Answer = Callable[[str, str, object], tuple[int, object]]


class Wrong(Exception):
    """A request that the component does not take: its status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Simulator(BaseHTTPRequestHandler):
    """Prints each request and what was answered."""

    protocol_version = "HTTP/1.1"
    answer: Answer

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, content = type(self).answer(self.command, self.path, _decoded(body))
        except Wrong as wrong:
            status, content = wrong.status, {"error": str(wrong)}
        text = json.dumps(content)
        asked = body[:120].decode("utf-8", "replace")
        print(f"{self.command} {self.path} {asked}\n  -> {status} {text[:200]}", flush=True)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _any  # noqa: N815 - http.server names them

    def log_message(self, *_: object) -> None:
        """Nothing: `_any` says more."""


def _decoded(body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise Wrong(400, f"the body is not JSON: {error}") from error


def no_such(method: str, path: str) -> Wrong:
    """What is not there."""
    return Wrong(404, f"there is no {method} {path}")


def main(about: str, port: int, answer: Answer, *, https: bool = False) -> None:
    """Serve until Ctrl-C. The command takes another PORT, or 0 for any that is free."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("port", nargs="?", type=int, default=port, help=f"(default: {port})")
    wanted = parser.parse_args().port
    handler = type("Handler", (Simulator,), {"answer": staticmethod(answer)})
    try:
        with ThreadingHTTPServer((HOST, wanted), handler) as server:
            server.daemon_threads = True
            if https:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
                server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = "https" if https else "http"
            print(f"listening on {scheme}://{HOST}:{server.server_port}, Ctrl-C ends", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen on {HOST}:{wanted}: {error}. Another port can be given: PORT")

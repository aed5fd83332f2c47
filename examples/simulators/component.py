"""A server for JSON over HTTP or HTTPS. All simulators use it. It needs only Python."""

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
# A function that is called with the method, the path and the decoded JSON body of a request. It
# returns the status and the content of the response; the content is sent as JSON.
Answer = Callable[[str, str, object], tuple[int, object]]


class WrongRequest(Exception):
    """The component refuses the request, with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Simulator(BaseHTTPRequestHandler):
    """Answers each request with `answer`, and prints the request and the response."""

    protocol_version = "HTTP/1.1"
    answer: Answer

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, content = type(self).answer(self.command, self.path, _decoded(body))
        except WrongRequest as wrong:
            status, content = wrong.status, {"error": str(wrong)}
        text = json.dumps(content)
        start = body[:120].decode("utf-8", "replace")
        print(f"{self.command} {self.path} {start}\n  -> {status} {text[:200]}", flush=True)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _handle  # noqa: N815 - http.server needs these names

    def log_message(self, *_: object) -> None:
        """Print nothing: `_handle` prints each request."""


def _decoded(body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise WrongRequest(400, f"the body is not JSON: {error}") from error


def not_found(method: str, path: str) -> WrongRequest:
    """The error for an unknown path or method."""
    return WrongRequest(404, f"this server has no {method} {path}")


def main(about: str, port: int, answer: Answer, *, https: bool = False) -> None:
    """Serve on ``port`` until Ctrl-C. An argument of the command line replaces ``port``.

    If the port is 0, the kernel chooses a free port. ``about`` is the help text.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("port", nargs="?", type=int, default=port, help=f"(default: {port})")
    chosen_port = parser.parse_args().port
    handler = type("Handler", (Simulator,), {"answer": staticmethod(answer)})
    try:
        with ThreadingHTTPServer((HOST, chosen_port), handler) as server:
            server.daemon_threads = True
            if https:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
                server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = "https" if https else "http"
            url = f"{scheme}://{HOST}:{server.server_port}"
            print(f"listening on {url}; stop with Ctrl-C", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:
        sys.exit(f"cannot listen on {HOST}:{chosen_port}: {error}. Give another PORT")

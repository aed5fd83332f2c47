"""A server of JSON over HTTP or HTTPS, used by all simulators. It needs only Python."""

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
# A function of the method, the path and the decoded body. It returns the status and the content.
Answer = Callable[[str, str, object], tuple[int, object]]


class WrongRequest(Exception):
    """The component refuses the request, with a status and a reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Simulator(BaseHTTPRequestHandler):
    """Answers each request, and prints the request and the answer."""

    protocol_version = "HTTP/1.1"
    answer: Answer

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, content = type(self).answer(self.command, self.path, _decoded(body))
        except WrongRequest as wrong:
            status, content = wrong.status, {"error": str(wrong)}
        text = json.dumps(content)
        shown = body[:120].decode("utf-8", "replace")
        print(f"{self.command} {self.path} {shown}\n  -> {status} {text[:200]}", flush=True)
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


def no_such(method: str, path: str) -> WrongRequest:
    """The error for an unknown path or method."""
    return WrongRequest(404, f"there is no {method} {path}")


def main(about: str, port: int, answer: Answer, *, https: bool = False) -> None:
    """Serve until Ctrl-C. The command line may give another PORT; 0 means any free port."""
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
        sys.exit(f"cannot listen on {HOST}:{wanted}: {error}. Give another PORT")

"""Simulates components, other nodes and the Load Balancer.

    python test_rest_api.py [PORT]

The simulator listens on 127.0.0.1, port 6000, as the shipped configuration files expect. It needs
only Python. This file is a program, not a pytest test.
"""

from __future__ import annotations

import argparse
import errno
import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 6000
NODES = ("nodo1", "nodo2", "nodo3")
ENDPOINTS = ("endpoint1", "endpoint2", "slow")
SLOW_S = 10  # delay of the endpoint `slow`: enough time to kill the node


class Simulator(BaseHTTPRequestHandler):
    """Answers every request with a small JSON object, and prints the request and the answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffer the response, so that it is sent in one packet

    def do_GET(self) -> None:
        """Answer as the balancer, or as an endpoint of a component."""
        name = self.path.strip("/")
        if name == "LB/id_node":
            self._answer(200, {"id_node": random.choice((1, 2, 3, None))})
        elif name in ENDPOINTS:
            self._answer(200, {"endpoint": name, "method": "GET"})
        else:
            self._answer(404, {"error": f"the simulator has no path {self.path}"})

    def do_POST(self) -> None:
        """Answer as a node that accepts a hand-off, or as an endpoint of a component."""
        name = self.path.strip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if name in NODES:
            self._answer(200, {"node": name, "status": "accepted"}, body)
        elif name in ENDPOINTS:
            self._answer(200, {"endpoint": name, "method": "POST"}, body)
        else:
            self._answer(404, {"error": f"the simulator has no path {self.path}"}, body)

    def _answer(self, status: int, content: dict[str, object], body: bytes = b"") -> None:
        text = body[:200].decode("utf-8", "replace")
        key = self.headers.get("Idempotency-Key")
        print(self.command, self.path, text, f"(Idempotency-Key {key})" if key else "", flush=True)
        if self.path.strip("/") == "slow":
            time.sleep(SLOW_S)
        print("  ->", status, json.dumps(content), flush=True)
        text = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Print nothing: `_answer` prints each request."""


def serve(port: int = PORT) -> ThreadingHTTPServer:
    """Create the server; the caller calls ``serve_forever``. Raises OSError if it cannot listen."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Simulator)
    server.daemon_threads = True
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    port_help = f"the port to listen on (default: {PORT})"
    parser.add_argument("port", nargs="?", type=int, default=PORT, help=port_help)
    wanted_port = parser.parse_args().port
    try:
        with serve(wanted_port) as server:
            print(f"listening on http://127.0.0.1:{server.server_port}, Ctrl-C ends", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = ". Another simulator may be running: end it, or give another PORT." if in_use else ""
        reason = getattr(error, "strerror", None) or error
        sys.exit(f"cannot listen on 127.0.0.1:{wanted_port}: {reason}{hint}")

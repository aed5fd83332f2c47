"""A real nginx in front of a node."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from brokers import need
from nodes import HOST, wait_until


@contextmanager
def nginx(folder: Path, port: int, location: str) -> Iterator[None]:
    """Run nginx at ``port`` with the text of a block ``location``."""
    folder.mkdir()
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log stderr;\n"
        f"worker_processes 1;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}"
        f"server {{ listen {HOST}:{port};\n{location}\n}}\n}}\n"
    )
    command = [need("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        wait_until(lambda: _listens(port))
        yield
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0

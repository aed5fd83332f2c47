"""Starts what every measurement needs: nginx as the components, and Mosquitto as the broker."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

from typing_extensions import Self

from bench.disks import Disk, own_disk
from bench.processes import HOST, free_port, running

LOG_LINE_BYTES = len("1795554073.123\n")
WAIT_LIMIT_S = 600

# The third call of a flow has two results in its body, so nginx recognizes this call by its length,
# and logs its time as the end of the flow. This is the same for every system. The component at
# ``call_log`` logs each call, and returns the body of the request: every later call of the flow
# then contains the payload of its trigger, too. The balancer at ``other_node`` names node 2.
NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 65536; user root;
pid {folder}/nginx.pid; error_log {folder}/nginx.err;
load_module modules/ngx_http_echo_module.so;
events {{ worker_connections 32768; }}
http {{
  keepalive_requests 100000000; keepalive_timeout 300s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  map $content_length $last {{ default 0; "~^(4[5-9]|[5-9][0-9]|[0-9]{{3,}})$" 1; }}
  log_format moment '$msec';
  log_format call escape=none '$msec $request_body';
  access_log {folder}/ended.log moment buffer=16k flush=50ms if=$last;
  server {{
    listen {host}:{port} backlog=16384;
    location / {{ default_type application/json; return 200 '{{"ok": true}}\\n'; }}
    location /LB {{ default_type text/html; return 200 '{{"id_node": null}}'; }}
  }}
  server {{
    listen {host}:{slow_50_ms} backlog=16384;
    location / {{ default_type application/json; echo_sleep 0.05; echo '{{"ok": true}}'; }}
    location /LB {{ default_type text/html; return 200 '{{"id_node": null}}'; }}
  }}
  server {{
    listen {host}:{slow_3_s} backlog=16384;
    location / {{ default_type application/json; echo_sleep 3; echo '{{"ok": true}}'; }}
    location /LB {{ default_type text/html; return 200 '{{"id_node": null}}'; }}
  }}
  server {{
    listen {host}:{call_log} backlog=16384;
    access_log {folder}/calls.log call buffer=16k flush=50ms;
    client_body_in_single_buffer on;
    location / {{ default_type application/json; echo_read_request_body; echo_request_body; }}
    location /LB {{ access_log off; default_type text/html; return 200 '{{"id_node": null}}'; }}
  }}
  server {{
    listen {host}:{other_node};
    location / {{ default_type text/html; return 200 '{{"id_node": 2}}'; }}
  }}
}}
"""
MOSQUITTO = """
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
set_tcp_nodelay true
max_inflight_messages 1000
"""
Found = TypeVar("Found")


def wait_until(
    condition: Callable[[], Found], within_s: float = WAIT_LIMIT_S, every_s: float = 0.005
) -> Found:
    """Wait until a condition holds, and return its value."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"timed out after {within_s:.0f} s")
        time.sleep(every_s)
    return found


def listens(port: int) -> bool:
    """Whether a program listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Stage:
    """nginx and Mosquitto on ports of their own, and a folder for all files."""

    def __init__(self, tries: int = 1, against: str | None = None) -> None:
        """``tries``: how often a round is measured at most, if other programs disturb it.

        ``against``: another commit of this project, to compare with.
        """
        self.tries, self.against = tries, against
        self.folder = Path(mkdtemp(prefix="fractal-rm-bench-"))
        self.nginx, self.slow_50_ms, self.slow_3_s, self.other_node, self.call_log = (
            free_port() for _ in range(5)
        )
        self.broker = free_port()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        folder = self.folder
        ports = {"port": self.nginx, "slow_50_ms": self.slow_50_ms, "slow_3_s": self.slow_3_s,
                 "other_node": self.other_node, "call_log": self.call_log}  # fmt: skip
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, host=HOST, **ports))
        (folder / "mosquitto.conf").write_text(MOSQUITTO.format(host=HOST, port=self.broker))
        for name in ("nginx", "mosquitto"):
            command = (name, "-c", str(folder / f"{name}.conf"))
            self._open.enter_context(running(*command, log=folder / f"{name}.out"))
        wait_until(lambda: listens(self.nginx) and listens(self.broker), 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        shutil.rmtree(self.folder)

    def disk(self, name: str) -> Disk:
        """An empty disk for a system, until the stage is closed."""
        return self._open.enter_context(own_disk(self.folder / name))

    def kill_at_end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process before the stage closes, if it still runs then."""
        self._open.callback(process.wait)
        self._open.callback(process.kill)

    def ended_flows(self) -> int:
        """How many flows have made their last call since the stage was opened."""
        return (self.folder / "ended.log").stat().st_size // LOG_LINE_BYTES

    def end_times(self, first: int, count: int) -> list[float]:
        """When flows made their last call, in order, in seconds since 1970."""
        with (self.folder / "ended.log").open("rb") as log:
            log.seek(first * LOG_LINE_BYTES)
            return [float(line) for line in log.read(count * LOG_LINE_BYTES).split()]


# --- CPU time and memory of a process ----------------------------------------------------------


def cpu_s(*pids: int) -> float:
    """Seconds of CPU time, user and system, that processes have used so far.

    The clock id is computed as in clock_getcpuclockid(3). Threads that have ended count.
    """
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def memory_mib(*pids: int, what: str = "VmRSS") -> float:
    """Resident memory; ``VmHWM`` is its peak."""
    total = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(re.search(rf"{what}:\s+(\d+)", status)[1])
    return total / 1024


def forget_peak(pid: int) -> None:
    """Reset the peak of its memory (proc_pid_clear_refs(5))."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")

"""Starts nginx, which simulates the components, and Mosquitto, the broker, for a measurement."""

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

from bench.disks import Disk, separate_disk
from bench.processes import HOST, free_port, running

LOG_LINE_BYTES = len("1795554073.123\n")
WAIT_LIMIT_S = 600

# nginx writes a line to ended.log at the end of each flow: the time of the flow's last HTTP call.
# nginx recognizes this call by the length of its body, because only this body has two results. So
# the end of a flow is measured in the same way for every system. The server at port ``call_log``
# logs each call, and its response is the body of the request. So every later call of the flow
# contains the payload of the trigger, too. The balancer at port ``other_node`` answers with node 2.
NGINX_CONF = """
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
MOSQUITTO_CONF = """
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
set_tcp_nodelay true
max_inflight_messages 1000
"""
Value = TypeVar("Value")


def wait_until(
    condition: Callable[[], Value], within_s: float = WAIT_LIMIT_S, every_s: float = 0.005
) -> Value:
    """Call ``condition`` until it returns a true value. Returns this value.

    Ends the program after ``within_s`` seconds.
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"the benchmark has waited for {within_s:.0f} s without success")
        time.sleep(every_s)
    return value


def is_listening(port: int) -> bool:
    """Whether a program listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


class Stage:
    """nginx and Mosquitto, running on free ports, and a temporary folder for all files."""

    def __init__(self, max_tries: int = 1, other_commit: str | None = None) -> None:
        """Create the folder and choose the ports. Nothing is started yet.

        A round that other programs disturb is measured at most ``max_tries`` times.
        ``other_commit`` is another commit of this project, to compare with.
        """
        self.max_tries, self.other_commit = max_tries, other_commit
        self.folder = Path(mkdtemp(prefix="fractal-rm-bench-"))
        (
            self.nginx_port,
            self.slow_50_ms_port,
            self.slow_3_s_port,
            self.other_node_port,
            self.call_log_port,
        ) = (free_port() for _ in range(5))
        self.broker_port = free_port()
        self._exit_stack = ExitStack()

    def __enter__(self) -> Self:
        folder = self.folder
        ports = {
            "port": self.nginx_port,
            "slow_50_ms": self.slow_50_ms_port,
            "slow_3_s": self.slow_3_s_port,
            "other_node": self.other_node_port,
            "call_log": self.call_log_port,
        }
        (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, host=HOST, **ports))
        mosquitto_conf = MOSQUITTO_CONF.format(host=HOST, port=self.broker_port)
        (folder / "mosquitto.conf").write_text(mosquitto_conf)
        for name in ("nginx", "mosquitto"):
            command = (name, "-c", str(folder / f"{name}.conf"))
            self._exit_stack.enter_context(running(*command, log=folder / f"{name}.out"))
        wait_until(lambda: is_listening(self.nginx_port) and is_listening(self.broker_port), 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()
        shutil.rmtree(self.folder)

    def disk(self, name: str) -> Disk:
        """Mount an empty disk for a system. It is unmounted when the stage is closed."""
        return self._exit_stack.enter_context(separate_disk(self.folder / name))

    def kill_at_end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process when the stage is closed, unless the process has ended before."""
        self._exit_stack.callback(process.wait)
        self._exit_stack.callback(process.kill)

    def ended_flows(self) -> int:
        """How many flows have made their last call since the stage was opened."""
        return (self.folder / "ended.log").stat().st_size // LOG_LINE_BYTES

    def end_times(self, first: int, count: int) -> list[float]:
        """The end times of ``count`` flows, sorted, in seconds since 1970.

        The first ``first`` flows that ended are skipped.
        """
        with (self.folder / "ended.log").open("rb") as log:
            log.seek(first * LOG_LINE_BYTES)
            return [float(line) for line in log.read(count * LOG_LINE_BYTES).split()]


# --- CPU time and memory of a process ----------------------------------------------------------


def cpu_s(*pids: int) -> float:
    """Seconds of CPU time, user and system, that processes have used so far.

    This includes threads that have ended. The id of a process's CPU clock is computed as
    clock_getcpuclockid(3) computes it.
    """
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def memory_mib(*pids: int, field: str = "VmRSS") -> float:
    """The sum of a memory field of /proc/PID/status over processes, in MiB.

    VmRSS is the resident memory. VmHWM is its peak since the start of the process.
    """
    total_kib = 0
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text()
        total_kib += int(re.search(rf"{field}:\s+(\d+)", status)[1])
    return total_kib / 1024


def reset_memory_peak(pid: int) -> None:
    """Set the peak of a process's memory (VmHWM) to its current memory, proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")

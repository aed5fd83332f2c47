"""How fast, and how much it takes: the Runtime Manager alone, beside wrk on the same web server.

    make bench            or: python bench/bench.py [--runs N] [--rounds R] [--json]

The work is flow 1 of the shipped configuration: one question to the balancer and three calls for
each trigger, against nginx that answers at once; triggers are published at QoS 1 through
Mosquitto. Every trigger, step and outcome is in the journal with synchronous=FULL. Everything
shares this machine, so what counts is the ratio to wrk in the same minute; a line is the median
of its rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import gmqtt
from gmqtt.mqtt.constants import MQTTv311

HOST = "127.0.0.1"
CALLS_PER_FLOW = 4
TICK = os.sysconf("SC_CLK_TCK")
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen {host}:{port} backlog=4096;
    location / {{ default_type application/json; return 200 '{{"ok": true}}\\n'; }}
    location /LB {{ default_type text/html; return 200 '{{"id_node": null}}'; }}
  }}
}}
"""
MOSQUITTO = """
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 1000
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_listening(port: int) -> None:
    for _ in range(400):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.025)
    sys.exit(f"nothing listens on port {port}")


@contextmanager
def running(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+)", status)[1]) / 1024


def write_config(folder: Path, nginx: int, broker: int, rest: int) -> Path:
    config = folder / "node" / "config_files"
    config.mkdir(parents=True)
    address = {"protocol": "http", "ip": HOST, "port": nginx}
    files = {
        "comm.conf": {
            "mqtt": {"topic": "bench", "host": HOST, "port": broker},
            "rest": {"endpoint": "/startrm", "port": rest},
        },
        "components.conf": {
            f"component{n}": {"id": n, "config": {**address, "endpoints": {"1": "endpoint1"}}}
            for n in (1, 2, 3)
        },
        "nodes.conf": {},
        "load_balancer.conf": {**address, "endpoint": "LB/id_node"},
    }
    for name, content in files.items():
        (config / name).write_text(json.dumps(content))
    (config / "flows.conf").write_text(
        "1\nTO component1 1\nPOST payload\nTO component2 1\nPOST result1\n"
        "TO component3 1\nPOST result1 result2\n"
    )
    return config


async def publish(port: int, count: int) -> None:
    """All triggers, as fast as the broker takes them."""
    client = gmqtt.Client("bench-publisher")
    await client.connect(HOST, port, version=MQTTv311)
    body = json.dumps({"id_flow": "1", "payload": "0x03abcdefghil"})
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(count):
        client.publish("bench", body, qos=1)
        if n % 200 == 0:
            await asyncio.sleep(0)
    await client._persistent_storage.wait_empty()
    await client.disconnect()


def settled(journal: Path) -> int:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        return db.execute("SELECT value FROM meta WHERE name = 'settled'").fetchone()[0]


def one_round(pid: int, journal: Path, broker: int, count: int) -> dict[str, float]:
    publisher = subprocess.Popen(
        [sys.executable, __file__, "--publish", str(broker), str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    publisher.stdout.readline()
    before, cpu_before, began = settled(journal), cpu_s(pid), time.perf_counter()
    publisher.stdin.close()
    while settled(journal) < before + count:
        time.sleep(0.02)
        if publisher.poll() not in (None, 0):
            sys.exit("the publisher failed")
    took = time.perf_counter() - began
    publisher.wait()
    return {"flows_per_s": count / took, "cpu_us": (cpu_s(pid) - cpu_before) / count * 1e6}


def wrk(port: int, folder: Path) -> float:
    """Calls per second of wrk with 32 connections: the floor of this machine."""
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\nwrk.body = \'{"payload": ["0x03abcdefghil"]}\'\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    said = subprocess.run(
        ["wrk", "-t1", "-c32", "-d3s", "-s", str(script), f"http://{HOST}:{port}/endpoint1"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])


def measure(folder: Path, count: int, rounds: int) -> dict[str, float]:
    nginx_port, broker, rest = free_port(), free_port(), free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, host=HOST, port=nginx_port))
    (folder / "mosquitto.conf").write_text(MOSQUITTO.format(host=HOST, port=broker))
    config = write_config(folder, nginx_port, broker, rest)
    journal = config.parent / "state" / "up.journal"
    nginx = ("nginx", "-c", str(folder / "nginx.conf"))
    mosquitto = ("mosquitto", "-c", str(folder / "mosquitto.conf"))
    node = (sys.executable, "-m", "fractal_rm.cli.main", "up", "--config", str(config))
    with (
        running(*nginx, log=folder / "nginx.out"),
        running(*mosquitto, log=folder / "mosquitto.out"),
    ):
        wait_listening(nginx_port)
        wait_listening(broker)
        began = time.perf_counter()
        with running(*node, log=folder / "node.out") as process:
            wait_listening(rest)
            ready = time.perf_counter() - began
            while "mqtt_connected" not in (folder / "node.out").read_text():
                time.sleep(0.01)
            time.sleep(1)
            idle = memory_mib(process.pid)
            one_round(process.pid, journal, broker, max(count // 10, 100))  # to warm up
            floors, found = [], []
            for _ in range(rounds):
                floors.append(wrk(nginx_port, folder))
                found.append(one_round(process.pid, journal, broker, count))
            peak = memory_mib(process.pid, "VmHWM")
    flows = statistics.median(each["flows_per_s"] for each in found)
    floor = statistics.median(floors)
    return {
        "flows_per_s": round(flows),
        "cpu_us_per_flow": round(statistics.median(each["cpu_us"] for each in found)),
        "wrk_calls_per_s": round(floor),
        "ratio_to_wrk": round(flows * CALLS_PER_FLOW / floor, 3),
        "ready_s": round(ready, 2),
        "idle_mib": round(idle, 1),
        "peak_mib": round(peak, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000, help="triggers in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--publish", nargs=2, type=int, metavar=("PORT", "COUNT"))
    chosen = parser.parse_args()
    if chosen.publish:
        asyncio.run(publish(*chosen.publish))
        return
    missing = [name for name in ("nginx", "mosquitto", "wrk") if shutil.which(name) is None]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="fractal-rm-bench-") as folder:
        figures = measure(Path(folder), chosen.runs, chosen.rounds)
    if chosen.json:
        print(json.dumps(figures))
        return
    print(f"flows/s           {figures['flows_per_s']:>8}   triggers in, three calls each, settled")
    print(f"CPU per flow      {figures['cpu_us_per_flow']:>8} µs of the node's process")
    print(f"wrk, calls/s      {figures['wrk_calls_per_s']:>8}   32 connections, the same nginx")
    print(f"ratio to wrk      {figures['ratio_to_wrk']:>8}   calls of the node to calls of wrk")
    print(f"ready             {figures['ready_s']:>8} s  from the command to listening")
    print(f"memory, idle      {figures['idle_mib']:>8} MiB")
    print(f"memory, loaded    {figures['peak_mib']:>8} MiB at its highest")


if __name__ == "__main__":
    main()

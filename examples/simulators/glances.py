"""Simulates the metrics exporter Glances 4, with the metrics of this machine.

    python glances.py [PORT]

GET `/api/4/cpu` answers with percentages, `/api/4/mem` with bytes, `/api/4/load` with the three
load averages of Linux, and `/api/4/quicklook` with one number for each of CPU, memory and load.
"""

from __future__ import annotations

import os
from pathlib import Path

from component import main, not_found

PORT = 61208


def cpu() -> dict[str, object]:
    """Shares of the CPU time in percent, and counters, both since the start of the machine."""
    lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    counters = {
        name: list(map(int, values.split()))
        for name, _, values in (line.partition(" ") for line in lines)
    }
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest")
    ticks = dict(zip(names, counters["cpu"], strict=False))
    total = sum(ticks.values()) - ticks["guest"] or 1  # "user" includes the time of "guest"
    shares = {name: round(100 * count / total, 1) for name, count in ticks.items()}
    del shares["softirq"]
    return {"total": round(100 - shares["idle"], 1), **shares, "ctx_switches": counters["ctxt"][0],
            "interrupts": counters["intr"][0], "soft_interrupts": counters["softirq"][0],
            "syscalls": 0, "cpucore": os.cpu_count()}  # fmt: skip


def mem() -> dict[str, object]:
    """The memory of the machine in bytes, and the used share in percent."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kib = {
        name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)
    }
    linux_names = {"free": "MemFree", "active": "Active", "inactive": "Inactive",
                   "buffers": "Buffers", "cached": "Cached", "shared": "Shmem"}  # fmt: skip
    others = {name: kib[linux_name] * 1024 for name, linux_name in linux_names.items()}
    total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    used = total - available
    percent = round(100 * used / total, 1)
    return {"total": total, "available": available, "percent": percent, "used": used, **others}


def load() -> dict[str, object]:
    """The number of cores, and the load averages of Linux over 1, 5 and 15 minutes."""
    minutes = dict(zip(("min1", "min5", "min15"), os.getloadavg(), strict=True))
    return {**minutes, "cpucore": os.cpu_count()}


def quicklook() -> dict[str, object]:
    """CPU, memory and load in percent. The load is the 15-minute average, divided by the cores."""
    cores = os.cpu_count() or 1
    return {"cpu": cpu()["total"], "mem": mem()["percent"],
            "load": round(100 * os.getloadavg()[2] / cores, 1), "cpu_log_core": cores}  # fmt: skip


METRICS = {f"/api/4/{metric.__name__}": metric for metric in (cpu, mem, load, quicklook)}


def answer(method: str, path: str, _body: object) -> tuple[int, object]:
    """Return the status and the content of the response: one metric."""
    metric = METRICS.get(path)
    if method != "GET" or metric is None:
        raise not_found(method, path)
    return 200, metric()


if __name__ == "__main__":
    main(__doc__, PORT, answer)

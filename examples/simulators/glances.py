"""Simulates the metrics exporter (Glances 3): what this machine is doing, by GET.

    python glances.py [PORT]

`/api/3/cpu` and `/api/3/mem` in percent, `/api/3/load` as the three averages of Linux.
"""

from __future__ import annotations

import os
from pathlib import Path

from component import main, no_such

PORT = 61208


def cpu() -> dict[str, object]:
    """Shares of the CPU's time since the machine was started, in percent."""
    line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    ticks = dict(zip(names, map(int, line.split()[1:]), strict=False))
    whole = sum(ticks.values()) or 1
    shares = {name: round(100 * count / whole, 1) for name, count in ticks.items()}
    return {"total": round(100 - shares["idle"], 1), **shares, "cpucore": os.cpu_count()}


def mem() -> dict[str, object]:
    """Memory in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    used = total - available
    percent = round(100 * used / total, 1)
    return {"total": total, "available": available, "percent": percent, "used": used,
            "free": available, "buffers": kib["Buffers"] * 1024,
            "cached": kib["Cached"] * 1024}  # fmt: skip


def load() -> dict[str, object]:
    """Runnable processes, on average over 1, 5 and 15 minutes."""
    minutes = dict(zip(("min1", "min5", "min15"), os.getloadavg(), strict=True))
    return {**minutes, "cpucore": os.cpu_count()}


METRICS = {"/api/3/cpu": cpu, "/api/3/mem": mem, "/api/3/load": load}


def answer(method: str, path: str, _body: object) -> tuple[int, object]:
    """One metric."""
    metric = METRICS.get(path)
    if method != "GET" or metric is None:
        raise no_such(method, path)
    return 200, metric()


if __name__ == "__main__":
    main(__doc__, PORT, answer)

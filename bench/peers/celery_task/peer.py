"""Celery with Redis, a common choice of Python programmers. Each flow is one task."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.installed import FOLDER, install_once, pip_install, version_in
from bench.processes import HOST, free_port, running

HERE = Path(__file__).parent
INSTALLED = FOLDER / "celery_task"
LOCK = HERE / "requirements.lock"
PYTHON = INSTALLED / "bin" / "python"
WORKER_PROCESSES = 2


class CeleryTask:
    durable_data = "task in Redis"
    max_triggers = sys.maxsize
    is_slow = True

    @property
    def name(self) -> str:
        return f"Celery {version_in(INSTALLED, 'celery')}"

    def missing_reason(self) -> str | None:
        if shutil.which("redis-server") is None:
            return "Celery needs Redis: apt install redis-server"
        return None

    def install(self) -> None:
        install_once(INSTALLED, LOCK, lambda folder: pip_install(folder, LOCK))

    @contextmanager
    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> Iterator[list[int]]:
        redis_port = free_port()
        addresses = {
            "BENCH_WEB": f"http://{HOST}:{nginx_port}",
            "BENCH_REDIS": f"redis://{HOST}:{redis_port}/0",
        }
        store = (
            "redis-server", "--bind", HOST, "--port", str(redis_port), "--dir", folder,
            "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
        )  # fmt: skip
        worker = (
            PYTHON, "-m", "celery", "--workdir", HERE, "--app", "tasks", "worker",
            "--pool", "prefork", "--concurrency", str(WORKER_PROCESSES), "--loglevel", "WARNING",
        )  # fmt: skip
        bridge = (PYTHON, HERE / "bridge.py", HOST, str(broker_port), topic)
        with running(*store, log=folder / "redis.log") as redis:
            redis.wait_for_log("Ready to accept connections")
            with running(*worker, log=folder / "worker.log", environment=addresses) as pool:
                pool.wait_for_log("worker ready")
                with running(
                    *bridge, log=folder / "bridge.log", environment=addresses
                ) as bridge_process:
                    bridge_process.wait_for_log("subscribed")
                    yield [redis.pid, pool.pid, *pool.children(), bridge_process.pid]

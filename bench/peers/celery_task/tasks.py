"""The worker: flow 1 as one task, its four calls made one after another."""

from __future__ import annotations

import os

import requests
from celery import Celery
from celery.signals import worker_ready

BALANCER = os.environ["BENCH_WEB"] + "/LB/id_node"
COMPONENT = os.environ["BENCH_WEB"] + "/endpoint1"

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(
    task_acks_late=True,  # a task is repeated when its worker dies
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)

# Each worker process has its own copy after the fork, which connects at its first call.
session = requests.Session()
session.trust_env = False  # loopback needs no proxies, and looking for them takes time in each call


@app.task
def flow_1(payload: str) -> None:
    if session.get(BALANCER, timeout=10).json()["id_node"] is not None:
        return
    result1 = post(payload)
    result2 = post(result1)
    post(result1, result2)


def post(*items: str) -> str:
    return session.post(COMPONENT, json={"payload": items}, timeout=10).text


@worker_ready.connect
def say_ready(**_: object) -> None:
    print("worker ready", flush=True)

"""The worker: flow 1 is one task, which makes its four calls one after another."""

from __future__ import annotations

import os

import requests
from celery import Celery
from celery.signals import worker_ready

BALANCER = os.environ["BENCH_WEB"] + "/LB/id_node"
COMPONENT = os.environ["BENCH_WEB"] + "/endpoint1"

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(
    task_acks_late=True,  # so if a worker dies, its task is repeated
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)

# Each worker process gets a copy of this session by fork. The copy connects at its first call.
session = requests.Session()
session.trust_env = False  # do not search for proxies: this takes time, and loopback has none


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
def print_ready(**_: object) -> None:
    print("worker ready", flush=True)

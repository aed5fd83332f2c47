"""Simulates the edge orchestrator: which nodes there are, and which of them take work.

    python orchestrator.py [PORT]

`POST /api/v1/load_nodes` takes `{"ips": [addresses], "orchestrator": name}`, and
`POST /api/v1/update_taints` takes `{}`.
"""

from __future__ import annotations

import ipaddress

from component import Wrong, main, no_such

PORT = 9999
nodes: list[str] = []


def load_nodes(body: object) -> tuple[int, object]:
    """Take these nodes in the place of those before."""
    if not isinstance(body, dict) or body.keys() != {"ips", "orchestrator"}:
        raise Wrong(422, 'the body is not {"ips", "orchestrator"}')
    ips = body["ips"]
    if not isinstance(ips, list) or not ips:
        raise Wrong(422, "ips is no list of addresses")
    try:
        nodes[:] = [str(ipaddress.ip_address(ip)) for ip in ips]
    except ValueError as error:
        raise Wrong(422, str(error)) from error
    return 200, {"orchestrator": body["orchestrator"], "nodes": len(nodes)}


def update_taints(body: object) -> tuple[int, object]:
    """Say anew which of them take work."""
    if body != {}:
        raise Wrong(422, "the body is not {}")
    if not nodes:
        raise Wrong(409, "no nodes are loaded")
    return 200, {"updated": nodes}


CALLS = {"/api/v1/load_nodes": load_nodes, "/api/v1/update_taints": update_taints}


def answer(method: str, path: str, body: object) -> tuple[int, object]:
    """One call."""
    call = CALLS.get(path)
    if method != "POST" or call is None:
        raise no_such(method, path)
    return call(body)


if __name__ == "__main__":
    main(__doc__, PORT, answer)

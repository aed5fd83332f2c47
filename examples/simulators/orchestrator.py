"""Simulates the edge orchestrator. It has a list of nodes, and marks the nodes that accept work.

    python orchestrator.py [PORT]

`POST /api/v1/load_nodes` accepts `{"ips": [addresses], "orchestrator": name}`, and
`POST /api/v1/update_taints` accepts `{}`.
"""

from __future__ import annotations

import ipaddress

from component import WrongRequest, main, not_found

PORT = 9999
nodes: list[str] = []


def load_nodes(body: object) -> tuple[int, object]:
    """Replace the list of nodes. Returns the status and the content of the response."""
    if not isinstance(body, dict) or body.keys() != {"ips", "orchestrator"}:
        raise WrongRequest(422, 'the body is not {"ips": [addresses], "orchestrator": name}')
    ips = body["ips"]
    if not isinstance(ips, list) or not ips:
        raise WrongRequest(422, "ips is not a list of addresses")
    try:
        nodes[:] = [str(ipaddress.ip_address(ip)) for ip in ips]
    except ValueError as error:
        raise WrongRequest(422, str(error)) from error
    return 200, {"orchestrator": body["orchestrator"], "nodes": len(nodes)}


def update_taints(body: object) -> tuple[int, object]:
    """Update which nodes accept work. Returns the status and the content of the response."""
    if body != {}:
        raise WrongRequest(422, "the body is not the empty object {}")
    if not nodes:
        raise WrongRequest(409, "no nodes are loaded: call load_nodes first")
    return 200, {"updated": nodes}


CALLS = {"/api/v1/load_nodes": load_nodes, "/api/v1/update_taints": update_taints}


def answer(method: str, path: str, body: object) -> tuple[int, object]:
    """Return the status and the content of the response to one call."""
    call = CALLS.get(path)
    if method != "POST" or call is None:
        raise not_found(method, path)
    return call(body)


if __name__ == "__main__":
    main(__doc__, PORT, answer)

"""Simulates a recorder: keeps one JSON object after another.

    python recorder.py [PORT]

`POST /records` keeps one and answers 201 with its number; `GET /records` gives them all.
"""

from __future__ import annotations

from component import Wrong, main, no_such

PORT = 9300
records: list[object] = []


def answer(method: str, path: str, body: object) -> tuple[int, object]:
    """Keep, or give."""
    if path != "/records":
        raise no_such(method, path)
    if method == "GET":
        return 200, records
    if not isinstance(body, dict) or not body:
        raise Wrong(422, "a record is a JSON object that says something")
    records.append(body)
    return 201, {"number": len(records)}


if __name__ == "__main__":
    main(__doc__, PORT, answer)

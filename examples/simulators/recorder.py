"""Simulates a recorder, which stores JSON objects.

    python recorder.py [PORT]

`POST /records` stores a record, and answers 201 with the number of stored records. `GET /records`
answers with all records.
"""

from __future__ import annotations

from component import WrongRequest, main, not_found

PORT = 9300
records: list[object] = []


def answer(method: str, path: str, body: object) -> tuple[int, object]:
    """Store a record, or list all records. Returns the status and the content of the response."""
    if path != "/records":
        raise not_found(method, path)
    if method == "GET":
        return 200, records
    if not isinstance(body, dict) or not body:
        raise WrongRequest(422, "the body is not a JSON object, or is an empty object")
    records.append(body)
    return 201, {"number": len(records)}


if __name__ == "__main__":
    main(__doc__, PORT, answer)

"""Simulates a model server over HTTPS, with a certificate of a private CA.

    python model_server.py [PORT]

`POST /api/v1/models/<tag>/prediction` accepts `{"values": [numbers]}`. The only model
is `defects`. It predicts the probability that the part is broken, from 0 to 1.
"""

from __future__ import annotations

from component import WrongRequest, main, not_found

PORT = 8000
MODELS = ("defects",)


def answer(method: str, path: str, body: object) -> tuple[int, object]:
    """Return the status and the content of the response: one prediction."""
    prefix, _, model_path = path.partition("/api/v1/models/")
    tag, _, operation = model_path.partition("/")
    if method != "POST" or prefix or operation != "prediction":
        raise not_found(method, path)
    if tag not in MODELS:
        raise WrongRequest(404, f"there is no model {tag}")
    values = body.get("values") if isinstance(body, dict) else None
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        raise WrongRequest(422, 'the body is not {"values": [numbers]}')
    return 200, {"model": tag, "prediction": round(1 - sum(values) / len(values), 3)}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


if __name__ == "__main__":
    main(__doc__, PORT, answer, https=True)

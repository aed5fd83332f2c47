"""Simulates image recognition.

    python image_recognition.py [PORT]

`POST /IR/image` accepts `{"img_byte": [bytes as numbers]}`. The response has a label, and
values for a model. It is delayed by DELAY_S, because recognition is slow.
"""

from __future__ import annotations

import time

from component import WrongRequest, main, not_found

PORT = 5001
DELAY_S = 0.3


def answer(method: str, path: str, body: object) -> tuple[int, object]:
    """Return the status and the content of the response: the label and values of a picture."""
    if (method, path) != ("POST", "/IR/image"):
        raise not_found(method, path)
    pixels = body.get("img_byte") if isinstance(body, dict) else None
    if not isinstance(pixels, list) or not pixels:
        raise WrongRequest(400, 'the body is not {"img_byte": [numbers]}')
    if not all(type(pixel) is int and 0 <= pixel <= 255 for pixel in pixels):
        raise WrongRequest(400, "img_byte has an element that is not an integer from 0 to 255")
    time.sleep(DELAY_S)
    light, contrast = sum(pixels) / len(pixels) / 255, (max(pixels) - min(pixels)) / 255
    label = "part" if contrast > 0.5 else "empty belt"
    return 200, {"label": label, "values": [round(light, 3), round(contrast, 3)]}


if __name__ == "__main__":
    main(__doc__, PORT, answer)

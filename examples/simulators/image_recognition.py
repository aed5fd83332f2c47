"""Simulates image recognition: what is on a picture.

    python image_recognition.py [PORT]

`POST /IR/image` takes `{"img_byte": [bytes as numbers]}`, and takes its time. It answers with what
it saw, and with the values that a model can say more about.
"""

from __future__ import annotations

import time

from component import Wrong, main, no_such

PORT = 5001
TAKES_S = 0.3


def answer(method: str, path: str, body: object) -> tuple[int, object]:
    """Look at one picture."""
    if (method, path) != ("POST", "/IR/image"):
        raise no_such(method, path)
    pixels = body.get("img_byte") if isinstance(body, dict) else None
    if not isinstance(pixels, list) or not pixels:
        raise Wrong(400, 'the body is not {"img_byte": [numbers]}')
    if not all(type(pixel) is int and 0 <= pixel <= 255 for pixel in pixels):
        raise Wrong(400, "a byte is a number from 0 to 255")
    time.sleep(TAKES_S)
    light, contrast = sum(pixels) / len(pixels) / 255, (max(pixels) - min(pixels)) / 255
    label = "part" if contrast > 0.5 else "empty belt"
    return 200, {"label": label, "values": [round(light, 3), round(contrast, 3)]}


if __name__ == "__main__":
    main(__doc__, PORT, answer)

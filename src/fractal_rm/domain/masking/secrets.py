"""Masks secrets in texts: given secrets, such as those of the configuration, and secret keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from fractal_rm.domain.masking.fields import STARS
from fractal_rm.domain.strict_json import BYTE_ORDER_MARK

# The values of these keys are secret in files of the configuration.
SECRET_KEYS = ("password", "headers", "token")
_SECRET_KEY = re.compile(
    r"passw(or)?d|passphrase|secret|token|api[-_]?key|private[-_]?key|credential|authori[sz]ation"
    r"|cookie|session[-_]?id|^pin$|" + "|".join(f"^{key}$" for key in SECRET_KEYS),
    re.IGNORECASE,
)
# Secrets in a text that is not JSON: the value of a secret key, up to a space or a separator; the
# credentials after a scheme of HTTP; and the password in a URL.
_SECRET_IN_TEXT = re.compile(
    r"(?P<lead>\b[\w-]*(?:passw(?:or)?d|secret|token|api[-_]?key|credential)[\w-]*\s*[:=]\s*)"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
    r"|(?P<scheme>\b(?:Bearer|Basic)\s+)(?P<credentials>[A-Za-z0-9+/=._~-]{6,})"
    r"|(?P<user>://[^\s/:@]*:)(?P<password>[^\s/@]+)(?=@)",
    re.IGNORECASE,
)
MIN_LENGTH = 4  # shorter secrets are not masked, because they are often part of other words


class SecretMask:
    """Replaces secrets in texts and JSON values by stars.

    ``secrets`` are replaced wherever they are, if they are long enough. The values of keys whose
    names are like ``password`` are replaced, too.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        used = (secret for secret in secrets if len(secret) >= MIN_LENGTH)
        self._secrets = sorted(used, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Mask the secrets in a text. If the text is JSON, also mask the values of secret keys.

        A text without secrets is returned unchanged.
        """
        try:
            value = msgspec.json.decode(text.removeprefix(BYTE_ORDER_MARK))
            if not isinstance(value, (dict, list)):
                return self.plain(text)
            masked = self.value(cast("object", value))
        except (msgspec.DecodeError, RecursionError):
            return self.plain(text)
        if masked == value:
            return text
        return json.dumps(masked, ensure_ascii=False, separators=(",", ":"))

    def value(self, value: Any) -> Any:
        """Mask the values of secret keys in a JSON value, and the secrets in its texts."""
        if isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            return {key: self._member(key, each) for key, each in members.items()}
        if isinstance(value, list):
            return [self.value(each) for each in cast("list[Any]", value)]
        return self.text(value) if isinstance(value, str) else value

    def header(self, name: str, value: str) -> str:
        """Mask the value of a header or a parameter."""
        return STARS if _SECRET_KEY.search(name) else self.text(value)

    def plain(self, text: str) -> str:
        """Mask the secrets in a text that is not read as JSON."""
        for secret in self._secrets:
            text = text.replace(secret, STARS)
        return _SECRET_IN_TEXT.sub(
            lambda match: (match["lead"] or match["scheme"] or match["user"]) + STARS, text
        )

    def _member(self, key: str, value: Any) -> Any:
        if _SECRET_KEY.search(key) and value is not None and not isinstance(value, bool):
            return STARS
        return self.value(value)

"""Sessions of people who have signed in to the pages with a token, and the tokens of forms.

A session is kept by the browser as a cookie, and by nobody else. It names the token, and when it
ends, and is signed with a key of this node (HMAC, RFC 2104). The signature covers the stored digest
of the token, too. So a session ends when its token is revoked or made anew.

Each form of a page contains a form token, which is derived from the session with the same key. A
page of another site cannot read it, so it cannot send a form that is accepted (CSRF).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

from fractal_rm.domain.tokens import Token

KEY_BYTES = 32
SESSION_MS = 7 * 24 * 3_600_000
MAX_SESSION_TEXT = 256


def session_text(key: bytes, token: Token, ends_ms: int) -> str:
    """The text of a session of ``token``. ``ends_ms`` is a wall time, milliseconds since 1970."""
    return f"{ends_ms}.{_signature(key, token, ends_ms)}.{token.name}"


def token_of_session(text: str, key: bytes, tokens: Iterable[Token], now_ms: int) -> Token | None:
    """The token with which a session began, or None if the session is not valid at ``now_ms``."""
    end, _, rest = text[:MAX_SESSION_TEXT].partition(".")
    signature, _, name = rest.partition(".")
    if not (end.isascii() and end.isdigit()) or now_ms >= int(end):
        return None
    for token in tokens:
        if token.name == name:
            expected = _signature(key, token, int(end)).encode()
            is_valid = hmac.compare_digest(expected, signature.encode("utf-8", "replace"))
            return token if is_valid and not token.has_expired(now_ms) else None
    return None


def form_token(key: bytes, session: str) -> str:
    """The token of the forms of a session. ``session`` is empty for a browser without one."""
    return _digest(key, f"form\n{session}")


def _signature(key: bytes, token: Token, ends_ms: int) -> str:
    return _digest(key, f"session\n{token.name}\n{token.sha256}\n{ends_ms}")


def _digest(key: bytes, text: str) -> str:
    digest = hmac.digest(key, text.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

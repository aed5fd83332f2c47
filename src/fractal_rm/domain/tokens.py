"""Bearer tokens (RFC 6750): how a token is made, stored and recognized.

A token is 256 random bits, shown once when it is made. Only its SHA-256 is stored: whoever reads
the file cannot use it. A slow hash, as for passwords, is not needed, because nobody can guess 256
random bits.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable

import msgspec

from fractal_rm.domain.access import Identity, Scope
from fractal_rm.domain.errors import FractalError

PREFIX = "frm_"  # so that secret scanners and people recognize a token
TOKEN_BYTES = 32
MAX_TOKEN_TEXT = 128
_TEXT = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")  # 256 bits in base64url
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class InvalidTokenName(FractalError):
    """The name of a token is not valid, or another token has it."""

    code = "token-name"


class Token(msgspec.Struct, frozen=True):
    """A stored token. Times are milliseconds since 1970; ``expires_ms`` None: it does not expire.

    ``sha256`` is in hexadecimal.
    """

    name: str
    sha256: str
    scopes: list[Scope]
    created_ms: int
    expires_ms: int | None = None

    def has_expired(self, now_ms: int) -> bool:
        """Whether the token has expired at a time."""
        return self.expires_ms is not None and now_ms >= self.expires_ms


def token_text(secret: bytes) -> str:
    """The text of a token, from `TOKEN_BYTES` random bytes."""
    return PREFIX + base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def is_token(text: str) -> bool:
    """Whether a text has the form of a token of this program."""
    return _TEXT.fullmatch(text) is not None


def digest_of(text: str) -> str:
    """What is stored of a token: its SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def check_name(name: str, existing: Iterable[Token]) -> None:
    """Raise InvalidTokenName if a new token cannot have this name."""
    if not _NAME.fullmatch(name):
        raise InvalidTokenName(
            f'"{name[:64]}" cannot be the name of a token; write up to 64 letters, digits and ._-'
        )
    if any(token.name == name for token in existing):
        raise InvalidTokenName(
            f"there is a token {name} already; revoke it first, or choose another name"
        )


def find_token(tokens: Iterable[Token], text: str) -> Token | None:
    """The token with this text, expired or not. Every token is compared, in constant time."""
    digest = digest_of(text[:MAX_TOKEN_TEXT])
    found = None
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            found = token
    return found


def identity_of(token: Token) -> Identity:
    """The client that sends a token."""
    return Identity(f"token {token.name}", frozenset(token.scopes))

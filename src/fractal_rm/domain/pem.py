"""Private keys in PEM files: whether one needs a passphrase."""

from __future__ import annotations

import re

# PKCS #8 (RFC 5958, 3; RFC 7468, 11), and the older form with headers (RFC 1421, 4.6.1.1).
_ENCRYPTED = re.compile(
    rb"^-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type:[ \t]*4,[ \t]*ENCRYPTED", re.MULTILINE
)


def needs_passphrase(pem: bytes) -> bool:
    """Whether a PEM file holds a key that is encrypted."""
    return _ENCRYPTED.search(pem) is not None


def passphrase_words(path: str) -> str:
    """Why such a file is of no use."""
    return f"the key file {path} is encrypted: the Runtime Manager cannot ask for its passphrase"

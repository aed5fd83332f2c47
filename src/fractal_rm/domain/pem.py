"""Finds out whether a private key in a PEM file is encrypted."""

from __future__ import annotations

import re

# The form of PKCS #8 (RFC 5958, 3; RFC 7468, 11), and the older form with headers (RFC 1421,
# 4.6.1.1).
_KEY = re.compile(
    rb"-----BEGIN (?P<new>ENCRYPTED )?[A-Z0-9 ]*PRIVATE KEY-----\s*"
    rb"(?P<old>Proc-Type:[ \t]*4,[ \t]*ENCRYPTED)?"
)


def needs_passphrase(pem: bytes) -> bool:
    """Whether the first private key in a PEM file is encrypted. OpenSSL uses only the first key."""
    match = _KEY.search(pem)
    return match is not None and bool(match["new"] or match["old"])


def encrypted_key_error(path: str) -> str:
    """The text of the error for an encrypted key file."""
    return f"the key file {path} is encrypted: the Runtime Manager cannot ask for its passphrase"

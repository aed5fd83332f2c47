"""Makes private keys that a node must refuse, with the program openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def encrypted_key(folder: Path, form: str) -> tuple[Path, Path | None]:
    """Make a certificate and its encrypted key. Returns their paths.

    ``form`` is "pkcs8", "traditional", or "with its certificate". In the last form, one file has
    the certificate and the key, and the second path is None.
    """
    cert, plain, key = (folder / name for name in ("cert.pem", "plain.pem", "key.pem"))
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", "/CN=node", "-keyout", plain, "-out", cert)  # fmt: skip
    command = "ec" if form == "traditional" else "pkey"
    _openssl(command, "-in", plain, "-aes256", "-passout", "pass:secret", "-out", key)
    if form != "with its certificate":
        return cert, key
    cert.write_bytes(cert.read_bytes() + key.read_bytes())
    return cert, None


def weak_key(key: Path, cert: Path) -> None:
    """Write a key that OpenSSL refuses because it is too weak, and its certificate."""
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp112r1",
             "-nodes", "-subj", "/CN=node", "-keyout", key, "-out", cert)  # fmt: skip


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

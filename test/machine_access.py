"""Gives machines of tests their certificates and tokens."""

from __future__ import annotations

import trustme

import programs
from sites import Site


def write_certificate(authority: trustme.CA, folder, name: str, **times) -> dict[str, str]:
    """Write a certificate for a name. Returns the value of the key ``tls``.

    ``times``: `not_before` and `not_after` of the certificate.
    """
    issued = authority.issue_cert(name, **times)
    files = {key: str(folder / f"{name}-{key}.pem") for key in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(files["ca"])
    issued.private_key_pem.write_to_path(files["key"])
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    return files


def new_token(site: Site, name: str, *scopes: str) -> str:
    """Make a token of a node. Returns its text."""
    words = [word for scope in scopes for word in ("--scope", scope)]
    made = programs.run_text("token", "new", name, *words, "--config", site.node.config)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()

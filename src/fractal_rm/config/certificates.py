"""Checks the files of a section ``tls``: dates, the order of chains, and keys that do not match."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import SECRET_BYTES, read_regular
from fractal_rm.config.section import Section
from fractal_rm.domain.call import Tls
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.certificate import (
    Certificate,
    MalformedCertificate,
    certificates_in_der,
    chain_order_fault,
    deciding,
    expiry_warning,
    read_certificates,
    validity_fault,
)
from fractal_rm.domain.findings import Level
from fractal_rm.domain.late_import import late_import
from fractal_rm.domain.pem import encrypted_key_error, needs_passphrase


class CertificateFile(msgspec.Struct, frozen=True):
    """A file with certificates. ``key`` is the key that names it: ``tls.cert of node 1``."""

    key: str
    path: str
    is_authority: bool


def check_tls(section: Section, tls: Tls, *, is_server: bool) -> None:
    """Add findings about the files of a section ``tls``.

    The files of a client need not exist yet: then the first call to the server reports the error.
    Of a client, only an encrypted key is an error, because its files may be replaced while the node
    runs. The certificate of the node itself is needed to listen, so its faults are errors.
    """
    level = Level.ERROR if is_server else Level.WARNING
    has_plain_key = _check_key(section, tls)
    now_ms = section.now_ms
    if now_ms is None:
        return
    for key, path in (("ca", tls.ca), ("cert", tls.cert)):
        if path is None or section.is_unusable(key):
            continue
        pem, reason = _read(path)
        if pem is None:
            if is_server:
                section.report(key, "C227", f"{path} cannot be read: {reason}", level)
            continue
        try:
            certificates = read_certificates(pem)
        except MalformedCertificate as error:
            text = f"{path} has a certificate that cannot be read: {error}"
            section.report(key, "C227", text, level)
            continue
        if not certificates:
            section.report(key, "C227", f"{path} contains no certificate in PEM form", level)
            continue
        _check_dates(section, key, path, certificates, now_ms)
        if key == "cert" and has_plain_key:
            _check_chain(section, tls, pem, certificates, level, is_server=is_server)


def _check_key(section: Section, tls: Tls) -> bool:
    """Report an encrypted key. Returns whether the key can be used, as far as this is known."""
    path = tls.key or tls.cert  # if ``key`` is absent, the file ``cert`` has the key, too
    if not path or section.is_unusable("key"):
        return False
    pem, _ = _read(path)
    if not needs_passphrase(pem or b""):
        return True
    hint = f"write a key without a passphrase: openssl pkey -in {Path(path).name} -out plain.pem"
    section.bad("key" if tls.key else "cert", encrypted_key_error(path), hint, "C225")
    return False


def _check_dates(
    section: Section, key: str, path: str, certificates: list[Certificate], now_ms: int
) -> None:
    """Dates are only warned of, because the clock of a machine may be wrong after its start."""
    certificate = deciding(certificates, is_authority=key == "ca")
    fault = validity_fault(certificate, now_ms)
    if fault is not None:
        section.warn(key, "C223", f"the certificate in {path} {fault}")
        return
    warning = expiry_warning(certificate, now_ms)
    if warning is not None:
        section.warn(key, "C226", f"the certificate in {path} {warning}")


def _check_chain(
    section: Section,
    tls: Tls,
    pem: bytes,
    certificates: list[Certificate],
    level: Level,
    *,
    is_server: bool,
) -> None:
    """Check that the key belongs to the first certificate, and that each was issued by the next.

    A wrong chain is a warning, because some programs accept it: they have the issuers themselves.
    """
    cert = tls.cert or ""
    key = tls.key or cert
    if tls.key and _read(key)[0] is None:
        if is_server:
            section.report("key", "C227", f"{key} cannot be read: {_read(key)[1]}", level)
        return
    order = chain_order_fault(certificates)
    if order is not None:
        section.warn("cert", "C224", f"the chain in {cert} is wrong: {order}")
    # Imported here, so that a command for a configuration without certificates needs no OpenSSL.
    files: Any = late_import("fractal_rm.config.tls_files")
    issuers = [] if order is not None else certificates_in_der(pem)[1:]
    try:
        fault = files.signature_fault(cert, key, issuers, is_server=is_server)
    except ConnectFailed as error:
        section.report("key" if tls.key else "cert", "C224", str(error), level)
        return
    except OSError as error:
        section.report("cert", "C227", f"{cert} cannot be read: {error}", level)
        return
    if fault is not None:
        section.warn("cert", "C224", f"the chain in {cert} is wrong: OpenSSL says {fault}")


def certificate_files(config: Config) -> list[CertificateFile]:
    """All files with certificates that a configuration names. Each path occurs once."""
    files: dict[str, CertificateFile] = {}
    for name, tls in _tls_of(config):
        for key, path in (("cert", tls.cert), ("ca", tls.ca)):
            if path is not None and path not in files:
                files[path] = CertificateFile(f"tls.{key} of {name}", path, key == "ca")
    return list(files.values())


def _tls_of(config: Config) -> Iterator[tuple[str, Tls]]:
    named: dict[str, Tls | None] = {
        "the section rest": config.rest.tls,
        "the section mqtt": config.mqtt.tls,
    }
    for node in config.nodes.values():
        named[f"node {node.name}"] = node.offer.origin.tls
    for component in config.components.values():
        for endpoint in component.endpoints.values():
            named[f"component {component.name}"] = endpoint.get.origin.tls
    if config.balancer is not None:
        named["the balancer"] = config.balancer.origin.tls
    yield from ((name, tls) for name, tls in named.items() if tls is not None)


def _read(path: str) -> tuple[bytes | None, str]:
    """The content of a file, or None and the reason why it cannot be read."""
    try:
        return read_regular(Path(path), SECRET_BYTES), ""
    except OSError as error:
        return None, error.strerror or str(error)
    except ValueError as error:  # the path contains a NUL character
        return None, str(error)

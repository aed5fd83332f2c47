"""Warns of certificates that expire soon, while a node runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fractal_rm.config.certificates import CertificateFile
from fractal_rm.config.regular_file import (
    SECRET_BYTES,
    Version,
    file_version,
    read_regular,
    stat_regular,
)
from fractal_rm.domain.certificate import (
    Certificate,
    MalformedCertificate,
    deciding,
    expiry_warning,
    read_certificates,
    validity_fault,
)


class CertificateExpiry:
    """The certificates that a configuration names. A file is read again when it has changed.

    ``files`` returns the files of the current configuration. ``now_ms`` reads the wall clock.
    """

    def __init__(
        self, files: Callable[[], Iterable[CertificateFile]], now_ms: Callable[[], int]
    ) -> None:
        self._files = files
        self._now_ms = now_ms
        self._read: dict[CertificateFile, tuple[Version, Certificate | None]] = {}

    def warnings(self) -> list[str]:
        """Sentences about certificates that expire within a fortnight, or are not valid now.

        Files that cannot be read are left out: the first connection that needs them reports it.
        """
        now_ms = self._now_ms()
        files = list(self._files())
        for gone in self._read.keys() - set(files):
            del self._read[gone]
        sentences: list[str] = []
        for file in files:
            certificate = self._certificate(file)
            if certificate is None:
                continue
            text = validity_fault(certificate, now_ms) or expiry_warning(certificate, now_ms)
            if text is not None:
                sentences.append(f"the certificate in {file.path} ({file.key}) {text}")
        return sentences

    def _certificate(self, file: CertificateFile) -> Certificate | None:
        """The certificate that decides how long a file can be used."""
        path = Path(file.path)
        try:
            version = file_version(stat_regular(path))
            read = self._read.get(file)
            if read is None or read[0] != version:
                certificates = read_certificates(read_regular(path, SECRET_BYTES))
                certificate = (
                    deciding(certificates, is_authority=file.is_authority) if certificates else None
                )
                read = self._read[file] = version, certificate
        except (OSError, ValueError, MalformedCertificate):
            return None
        return read[1]

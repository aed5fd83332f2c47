"""Reads X.509 certificates: issuer, subject and dates (RFC 5280, 4.1).

Only these fields are read. Whether a certificate is valid, OpenSSL decides at each connection.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from datetime import datetime, timedelta, timezone

import msgspec

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.expiry import WARN_MS, days_text, moment_text

_BLOCK = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END (?:X509 |TRUSTED )?CERTIFICATE"
    rb"-----",
    re.DOTALL,
)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class MalformedCertificate(FractalError):
    """A certificate cannot be read. The text says why."""

    code = "malformed-certificate"


class Certificate(msgspec.Struct, frozen=True):
    """A certificate. Times are milliseconds since 1970; names are in DER, to be compared."""

    issuer: bytes
    subject: bytes
    not_before_ms: int
    not_after_ms: int


def read_certificates(pem: bytes) -> list[Certificate]:
    """Read all certificates of a PEM file, in their order. Raises MalformedCertificate."""
    return [_read(der) for der in certificates_in_der(pem)]


def certificates_in_der(pem: bytes) -> list[bytes]:
    """The certificates of a PEM file, in DER. Raises MalformedCertificate."""
    try:
        return [binascii.a2b_base64(b"".join(match[1].split())) for match in _BLOCK.finditer(pem)]
    except binascii.Error as error:
        raise MalformedCertificate(f"its base64 is wrong: {error}") from None


def to_pem(ders: list[bytes]) -> str:
    """Certificates in PEM."""
    begin, end = (f"-----{word} CERTIFICATE-----\n" for word in ("BEGIN", "END"))
    return "".join(begin + base64.encodebytes(der).decode() + end for der in ders)


def deciding(certificates: list[Certificate], *, is_authority: bool) -> Certificate:
    """The certificate of a file whose dates decide how long the file can be used.

    Of a chain, it is the one that ends first. Of a file of authorities, it is the one that ends
    last, because such a file keeps an old authority until the new one is used everywhere.
    """
    return (max if is_authority else min)(certificates, key=lambda each: each.not_after_ms)


def validity_fault(certificate: Certificate, now_ms: int) -> str | None:
    """Why a certificate is not valid at a time; None if it is valid."""
    if now_ms >= certificate.not_after_ms:
        return f"has expired at {moment_text(certificate.not_after_ms)}"
    if now_ms < certificate.not_before_ms:
        begin, now = moment_text(certificate.not_before_ms), moment_text(now_ms)
        return f"is not valid before {begin}, and the clock of this machine is at {now}"
    return None


def expiry_warning(certificate: Certificate, now_ms: int) -> str | None:
    """That a certificate expires within a fortnight, and when; None if it does not."""
    left_ms = certificate.not_after_ms - now_ms
    if not 0 < left_ms <= WARN_MS:
        return None
    return f"expires in {days_text(left_ms)}, at {moment_text(certificate.not_after_ms)}"


def chain_order_fault(chain: list[Certificate]) -> str | None:
    """What is wrong with the order of a chain: each must be issued by the next one."""
    for number, (each, issuer) in enumerate(itertools.pairwise(chain), 1):
        if each.issuer != issuer.subject:
            return (
                f"certificate {number} was not issued by certificate {number + 1}; the file must"
                " begin with the certificate of the key, and after each one comes its issuer"
            )
    return None


def _read(der: bytes) -> Certificate:
    whole = _Reader(der).next(_SEQUENCE)
    fields = _Reader(_Reader(whole).next(_SEQUENCE))  # tbsCertificate
    if fields.peek() == _VERSION:
        fields.skip()
    fields.skip()  # serialNumber
    fields.skip()  # signature
    issuer = fields.next(_SEQUENCE)
    validity = _Reader(fields.next(_SEQUENCE))
    not_before_ms, not_after_ms = _time(validity), _time(validity)
    return Certificate(issuer, fields.next(_SEQUENCE), not_before_ms, not_after_ms)


class _Reader:
    """Reads the elements of a DER value one after the other (X.690, 8.1)."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def peek(self) -> int:
        """The tag of the next element."""
        if self._at >= len(self._content):
            raise MalformedCertificate("it ends too early")
        return self._content[self._at]

    def skip(self) -> None:
        """Skip an element."""
        self.next(self.peek())

    def next(self, tag: int) -> bytes:
        """The content of the next element, which must have this tag."""
        if self.peek() != tag:
            raise MalformedCertificate(f"it has an element {self.peek():#x} in place of {tag:#x}")
        begin, length = self._length(self._at + 1)
        self._at = begin + length
        if self._at > len(self._content):
            raise MalformedCertificate("it ends too early")
        return self._content[begin : self._at]

    def _length(self, at: int) -> tuple[int, int]:
        """Where the content begins, and its length."""
        first = self._content[at] if at < len(self._content) else 0x80
        if first < 0x80:
            return at + 1, first
        octets = first & 0x7F
        if not 1 <= octets <= 4:
            raise MalformedCertificate("it has an element without a valid length")
        return at + 1 + octets, int.from_bytes(self._content[at + 1 : at + 1 + octets], "big")


def _time(validity: _Reader) -> int:
    """Read a UTCTime or a GeneralizedTime (RFC 5280, 4.1.2.5)."""
    tag = validity.peek()
    text = validity.next(_GENERALIZED_TIME if tag == _GENERALIZED_TIME else _UTC_TIME)
    digits = text.decode("latin-1").removesuffix("Z")
    if tag == _UTC_TIME:
        digits = ("20" if digits[:2] < "50" else "19") + digits
    if not (len(digits) == 14 and digits.isascii() and digits.isdigit() and text.endswith(b"Z")):
        raise MalformedCertificate(f"it has the date {text[:20]!r}")
    year, *rest = [int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2))]
    try:
        moment = datetime(year, *rest, tzinfo=timezone.utc)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise MalformedCertificate(f"it has the date {digits}: {error}") from None
    return (moment - _EPOCH) // timedelta(milliseconds=1)

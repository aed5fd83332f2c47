"""Makes a key and a self-signed certificate with the program `openssl`, and checks them."""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec

from fractal_rm.adapters.tls.certificates import load_own_certificate
from fractal_rm.domain.address import read_address
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.errors import FractalError

LIMIT_S = 60
MAX_TURNS = 10  # of a handshake, which needs three
# The other node compares the whole certificate, so the first date protects nothing. A late date
# would refuse nodes whose clock is behind.
_FIRST_DATE = "20000101000000Z"
# The certificate cannot issue others: the node that trusts it trusts no other certificate.
_CONFIGURATION = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {node}
[ca]
default_ca = self
[self]
database = index.txt
new_certs_dir = .
default_md = sha256
policy = policy
rand_serial = yes
unique_subject = no
x509_extensions = extensions
[policy]
commonName = supplied
[extensions]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:{host},DNS:{node}
"""


class CannotMakeCertificate(FractalError):
    """The program `openssl` is missing, or has failed."""

    code = "cannot-make-certificate"


class OwnCertificate(msgspec.Struct, frozen=True):
    """A certificate and its private key (P-256), in PEM form."""

    certificate: bytes
    key: bytes


def make_certificate(node: str, host: str, now_ms: int, days: int) -> OwnCertificate:
    """Make a certificate for an IP address and the id of a node, valid for ``days``.

    Raises CannotMakeCertificate, and OSError if there is no folder for temporary files.
    """
    last = datetime.fromtimestamp(now_ms // 1000, timezone.utc) + timedelta(days=days)
    with tempfile.TemporaryDirectory(prefix="fractal-rm-") as name:  # only its owner can read it
        folder = Path(name)
        text = _CONFIGURATION.format(node=node, host=host)
        (folder / "openssl.cnf").write_text(text)
        (folder / "index.txt").touch()
        _openssl(folder, "genpkey", "-algorithm", "EC",
                 "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "key.pem")  # fmt: skip
        _openssl(folder, "req", "-new", "-config", "openssl.cnf",
                 "-key", "key.pem", "-out", "request.pem")  # fmt: skip
        _openssl(folder, "ca", "-config", "openssl.cnf", "-batch", "-selfsign", "-notext",
                 "-keyfile", "key.pem", "-in", "request.pem", "-out", "certificate.pem",
                 "-startdate", _FIRST_DATE, "-enddate", f"{last:%Y%m%d%H%M%S}Z")  # fmt: skip
        certificate = (folder / "certificate.pem").read_bytes()
        return OwnCertificate(certificate, (folder / "key.pem").read_bytes())


def _openssl(folder: Path, *arguments: str) -> None:
    command = ["openssl", *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - no argument comes from another machine
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise CannotMakeCertificate(
            "the program openssl is not installed; this command makes the certificate with it:"
            " apt install openssl"
        ) from None
    except subprocess.TimeoutExpired:
        raise CannotMakeCertificate(f"openssl did not end within {LIMIT_S} s") from None
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        text = reason[-1] if reason else f"exit code {done.returncode}"
        raise CannotMakeCertificate(f"openssl {arguments[0]} has failed: {text}")


def fault_in_pinned(cert: str, key: str, host: str) -> str | None:
    """Why a client that trusts only the certificate in the file ``cert`` would refuse ``host``.

    None: such a client can connect. The handshake is done in memory.
    """
    try:
        server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        load_own_certificate(server_context, cert, key)
        client_context = ssl.create_default_context(cadata=own_pem(cert))
        _shake_hands(server_context, client_context, host)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message.rstrip(".")
    except (ConnectFailed, OSError) as error:
        return str(error)
    return None


def own_pem(cert: str) -> str:
    """The first certificate in a file, which is that of the node itself. Raises OSError."""
    end = "-----END CERTIFICATE-----\n"
    text = Path(cert).read_text(errors="replace").replace("\r\n", "\n")
    start = text.find("-----BEGIN CERTIFICATE-----")
    return text[max(start, 0) : text.find(end.strip()) + len(end)]


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=str(read_address(host)))
    for _ in range(MAX_TURNS):
        done = [_is_done(side) for side in (client_side, server_side)]
        if all(done):
            return
    raise ssl.SSLError("the handshake does not end")


def _is_done(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True

"""Certificates: their dates are read, and wrong files are findings in words."""

from __future__ import annotations

from base64 import encodebytes
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from config_files import copy_shipped, edit
from fractal_rm.adapters.tls import CertificateExpiry
from fractal_rm.config.certificates import certificate_files
from fractal_rm.config.load import load, load_comm
from fractal_rm.domain.certificate import MalformedCertificate, read_certificates
from fractal_rm.domain.findings import ConfigRejected
from keys import encrypted_key

NOW = datetime(2026, 6, 15, 12, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)
DAY = timedelta(days=1)
AUTHORITY = trustme.CA()
INTERMEDIATE = AUTHORITY.create_child_ca()


def issue(days: float = 100, before_days: float = 100, authority=AUTHORITY, **options):
    """Issue a certificate that expires in ``days``, and was valid ``before_days`` ago."""
    return authority.issue_cert(
        "node-1.example", not_before=NOW - before_days * DAY, not_after=NOW + days * DAY, **options
    )


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n" % encodebytes(der)


def pems(*blobs: trustme.Blob) -> bytes:
    return b"".join(blob.bytes() for blob in blobs)


@pytest.mark.parametrize(
    ("key_type", "year"),
    [  # UTCTime ends at 2049
        *((trustme.KeyType.ECDSA, year) for year in (1999, 2026, 2049, 2050, 9999)),
        (trustme.KeyType.RSA, 2026),
    ],
)
def test_issuer_subject_and_dates_are_read_as_by_another_program(key_type, year):
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=timezone.utc)
    issued = INTERMEDIATE.issue_cert("a", not_before=end - DAY, not_after=end, key_type=key_type)
    pem = pems(*issued.cert_chain_pems, AUTHORITY.cert_pem)
    leaf, intermediate, root = read_certificates(pem)
    expected = x509.load_pem_x509_certificates(pem)[0]
    assert leaf.not_before_ms == expected.not_valid_before_utc.timestamp() * 1000
    assert leaf.not_after_ms == expected.not_valid_after_utc.timestamp() * 1000
    assert expected.subject.public_bytes().endswith(leaf.subject)
    assert leaf.issuer == intermediate.subject
    assert intermediate.issuer == root.subject == root.issuer


DER_PEM = issue().cert_chain_pems[0].bytes()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_certificate_or_malformed(content):
    with suppress(MalformedCertificate):
        assert len(read_certificates(_pem(content))) == 1


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_a_damaged_certificate_is_read_or_malformed(at, change):
    der = bytearray(x509.load_pem_x509_certificate(DER_PEM).public_bytes(Encoding.DER))
    der[at : at + len(change)] = change
    with suppress(MalformedCertificate):
        read_certificates(_pem(bytes(der)))


def test_a_certificate_that_was_cut_off_is_malformed():
    der = x509.load_pem_x509_certificate(DER_PEM).public_bytes(Encoding.DER)
    for size in range(len(der)):
        with pytest.raises(MalformedCertificate):
            read_certificates(_pem(der[:size]))


# --- findings -------------------------------------------------------------------------------------


class Files:
    """A configuration folder, and the files of a certificate in ``rest.tls``."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_shipped(folder)
        self.cert, self.key, self.ca = (
            folder / name for name in ("node.pem", "node.key", "ca.pem")
        )
        edit(self.folder, "components", component1__config__protocol="https")

    def write(self, issued=None, chain: bytes | None = None, key: bytes | None = None) -> Files:
        issued = issued or issue()
        self.cert.write_bytes(issued.cert_chain_pems[0].bytes() if chain is None else chain)
        self.key.write_bytes(issued.private_key_pem.bytes() if key is None else key)
        return self

    @property
    def tls(self) -> dict[str, str]:
        return {"cert": str(self.cert), "key": str(self.key)}

    def findings(self, *, of_component: bool = False, **more: str) -> list[str]:
        """The findings about these files: in ``rest.tls``, or in the ``tls`` of a component."""
        tls = {**self.tls, **more}
        if of_component:
            edit(self.folder, "components", component1__config__tls=tls)
        else:
            edit(self.folder, "comm", rest__tls=tls)
        try:
            found = load(self.folder, {}, NOW_MS).warnings
        except ConfigRejected as error:
            found = error.findings
        return [
            f"{each.level.value} {each.code} {each.text}".replace(str(self.cert.parent) + "/", "")
            for each in found
            if each.code not in ("C211", "C228")
        ]


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


@pytest.mark.parametrize("of_component", [False, True])
def test_a_certificate_without_faults_gives_no_finding(files, of_component):
    files.ca.write_bytes(AUTHORITY.cert_pem.bytes())
    assert files.write().findings(of_component=of_component, ca=str(files.ca)) == []
    chain = issue(authority=INTERMEDIATE)
    files.write(chain, pems(*chain.cert_chain_pems))
    assert files.findings(of_component=of_component) == []
    files.write(chain, pems(*chain.cert_chain_pems, AUTHORITY.cert_pem))
    assert files.findings(of_component=of_component) == []


@pytest.mark.parametrize("of_component", [False, True])
@pytest.mark.parametrize(
    ("days", "before_days", "expected"),
    [
        (15, 100, []),
        (14, 100, [("warning C226 the certificate in node.pem expires in 14 days, at"
                   " 2026-06-29 12:00 UTC")]),
        (0.5, 100, [("warning C226 the certificate in node.pem expires in less than 2 days, at"
                    " 2026-06-16 00:00 UTC")]),
        (0, 100, ["warning C223 the certificate in node.pem has expired at 2026-06-15 12:00 UTC"]),
        (100, -2, [("warning C223 the certificate in node.pem is not valid before 2026-06-17 12:00"
                   " UTC, and the clock of this machine is at 2026-06-15 12:00 UTC")]),
    ],
)  # fmt: skip
def test_the_dates_of_a_certificate_are_warned_of(files, of_component, days, before_days, expected):
    files.write(issue(days, before_days))
    assert files.findings(of_component=of_component) == expected


def test_a_chain_ends_with_its_first_certificate_to_end_and_authorities_with_the_last(files):
    # The certificates of trustme authorities end in 2038.
    chain = issue(5, authority=INTERMEDIATE)
    files.write(chain, pems(*chain.cert_chain_pems))
    assert "expires in 5 days" in files.findings()[0]
    old = issue(-1).cert_chain_pems[0]
    files.write()
    files.ca.write_bytes(old.bytes())
    assert files.findings(ca=str(files.ca)) == [
        "warning C223 the certificate in ca.pem has expired at 2026-06-14 12:00 UTC"
    ]
    files.ca.write_bytes(pems(old, AUTHORITY.cert_pem))
    assert files.findings(ca=str(files.ca)) == []


@pytest.mark.parametrize(("of_component", "level"), [(False, "error"), (True, "warning")])
def test_files_that_do_not_belong_together_are_a_finding(files, of_component, level):
    other = issue()
    for write, expected in [
        (lambda: files.write(key=other.private_key_pem.bytes()),
         "C224 the key in node.key does not match the first certificate in node.pem"),
        (lambda: files.write(key=b"nonsense"),
         "C224 node.key contains no private key in PEM form that OpenSSL can read"),
        (lambda: files.write(chain=b"nonsense"),
         "C227 node.pem contains no certificate in PEM form"),
        (lambda: files.write(chain=_pem(b"nonsense")),
         "C227 node.pem has a certificate that cannot be read: it has an element"),
    ]:  # fmt: skip
        write()
        found = files.findings(of_component=of_component)
        assert len(found) == 1
        assert found[0].startswith(f"{level} {expected}")


@pytest.mark.parametrize(("of_component", "level"), [(False, "error"), (True, "warning")])
def test_a_chain_in_the_wrong_order_or_with_a_gap_is_warned_of(files, of_component, level):
    chain = issue(authority=INTERMEDIATE)
    leaf, intermediate = chain.cert_chain_pems
    wrong = "warning C224 the chain in node.pem is wrong: "
    first = (
        f"{wrong}certificate 1 was not issued by certificate 2; the file must begin with the"
        " certificate of the key, and after each one comes its issuer"
    )
    files.write(chain, pems(leaf, AUTHORITY.cert_pem))
    assert files.findings(of_component=of_component) == [first]
    files.write(chain, pems(leaf, intermediate, intermediate))
    assert files.findings(of_component=of_component) == [
        first.replace("certificate 2;", "certificate 3;").replace("certificate 1", "certificate 2")
    ]
    files.write(chain, pems(intermediate, leaf))
    assert files.findings(of_component=of_component) == [
        first,
        f"{level} C224 the key in node.key does not match the first certificate in node.pem",
    ]


def test_a_chain_with_the_right_names_and_a_wrong_signature_is_a_finding(files):
    names = {"organization_name": "o", "organization_unit_name": "u"}
    true, false = (trustme.CA(**names) for _ in range(2))
    chain = issue(authority=true)
    files.write(chain, pems(chain.cert_chain_pems[0], false.cert_pem))
    assert read_certificates(false.cert_pem.bytes())[0].subject == (
        read_certificates(true.cert_pem.bytes())[0].subject
    )
    for of_component in (False, True):
        assert (
            "the chain in node.pem is wrong: OpenSSL says "
            in (files.findings(of_component=of_component)[0])
        )


def test_an_expired_chain_is_reported_by_its_date_only(files):
    chain = issue(-1, authority=INTERMEDIATE)
    files.write(chain, pems(*chain.cert_chain_pems))
    assert [text[:12] for text in files.findings()] == ["warning C223"]


def test_the_files_of_the_node_must_exist_and_those_of_a_client_need_not(files):
    assert files.findings(of_component=True) == []
    edit(files.folder, "components", component1__config__tls=False)
    assert files.findings() == ["error C227 node.pem cannot be read: No such file or directory"]
    files.write().key.unlink()
    assert files.findings() == ["error C227 node.key cannot be read: No such file or directory"]


def test_an_encrypted_key_is_the_only_finding_about_its_files(files, tmp_path):
    cert, key = encrypted_key(tmp_path, "pkcs8")
    files.write(chain=cert.read_bytes(), key=key.read_bytes())
    codes = [text.split()[1] for text in files.findings() if "valid before" not in text]
    assert codes == ["C225"]


def test_commands_that_need_only_the_state_folder_work_with_wrong_certificates(files):
    files.write(key=b"nonsense")
    edit(files.folder, "comm", rest__tls=files.tls)
    assert load_comm(files.folder, {}).state_path


# --- while a node runs ----------------------------------------------------------------------------


def test_a_running_node_names_certificates_that_expire_until_they_are_renewed(files):
    files.write(issue(5))
    files.ca.write_bytes(AUTHORITY.cert_pem.bytes())
    edit(files.folder, "comm", rest__tls={**files.tls, "ca": str(files.ca)})
    edit(files.folder, "components", component1__config__tls=files.tls)
    config = load(files.folder, {}).config
    now_ms = [NOW_MS]
    expiry = CertificateExpiry(lambda: certificate_files(config), lambda: now_ms[0])
    named = f"the certificate in {files.cert} (tls.cert of the section rest)"
    assert expiry.warnings() == [f"{named} expires in 5 days, at 2026-06-20 12:00 UTC"]
    now_ms[0] += 6 * 86_400_000
    assert expiry.warnings() == [f"{named} has expired at 2026-06-20 12:00 UTC"]
    files.write(issue(100))
    assert expiry.warnings() == []
    files.cert.unlink()
    assert expiry.warnings() == []


def test_all_files_with_certificates_are_watched(files):
    tls = {"cert": "c.pem", "key": "k.pem"}
    edit(files.folder, "comm", rest__tls={**tls, "ca": "ca.pem"}, mqtt__tls={"ca": "m.pem"})
    edit(files.folder, "components", component1__config__tls={"ca": "a.pem"})
    edit(
        files.folder, "nodes", **{"1__config__protocol": "https", "1__config__tls": {"ca": "n.pem"}}
    )
    edit(files.folder, "load_balancer", protocol="https", tls={"ca": "b.pem"})
    keys = {
        Path(each.path).name: each.key for each in certificate_files(load(files.folder, {}).config)
    }
    assert keys == {
        "c.pem": "tls.cert of the section rest",
        "ca.pem": "tls.ca of the section rest",
        "m.pem": "tls.ca of the section mqtt",
        "n.pem": "tls.ca of node 1",
        "a.pem": "tls.ca of component component1",
        "b.pem": "tls.ca of the balancer",
    }

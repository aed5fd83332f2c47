"""Joining two nodes: the line that one node prints, and the messages that the nodes exchange.

    node A                                   node B
    `pair invite` prints a line   ─────>     `pair accept LINE`
                                  <─────     PairRequest, with the secret of the line
    PairAnswer, with a token      ─────>

The line has the address of node A, the SHA-256 of its certificate, and a secret. The secret can be
used once, within ten minutes. After the exchange, each node has the address and the certificate of
the other, and a token for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import ClassVar

import msgspec

from fractal_rm.domain.access import Identity
from fractal_rm.domain.address import PLAIN_PATH, is_link_local, read_address
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.tokens import digest_of

PAIR_PATH = "/v1/pair"
VALID_MS = 600_000
MAX_WRONG_SECRETS = 5
SECRET_BYTES = 16
SECRET_PREFIX = "frm_invite_"  # noqa: S105 - not the secret itself
MAX_CLOCK_DIFFERENCE_MS = 86_400_000
INVITED = Identity("the sender of an invitation's secret", frozenset())

_LINE_PREFIX = "frm_pair1_"
_ANY_LINE = re.compile(r"frm_pair[0-9]+_")
_CHECKSUM_BYTES = 6
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,50}")


class CannotPair(FractalError):
    """Two nodes cannot be joined. The text gives the reason, and what to do."""

    code = "cannot-pair"


class PairingRefused(FractalError):
    """A node refuses a request to be joined. Nothing was changed on that node."""

    code = "pairing-refused"
    status: ClassVar[int] = 409


class NodeAddress(msgspec.Struct, frozen=True, array_like=True):
    """A node as other nodes reach it. ``host`` is an IP address; ``endpoint`` is `rest.endpoint`.

    The values may come from another machine, so use `checked` before they are written to a file.
    """

    node: str
    host: str
    port: int
    endpoint: str

    def checked(self) -> NodeAddress:
        """Return this address. Raises CannotPair if another node cannot use it."""
        check_node_id(self.node)
        check_host(self.host)
        if not 1 <= self.port <= 65_535:
            raise CannotPair(f"{self.port} is not a port")
        if len(self.endpoint) > 200 or not PLAIN_PATH.fullmatch(self.endpoint):
            raise CannotPair("rest.endpoint of the other node is not a plain path")
        return self

    @property
    def url(self) -> str:
        """The origin, such as ``https://10.1.0.1:5000``."""
        return f"https://{bracketed(self.host)}:{self.port}"

    @property
    def endpoint_url(self) -> str:
        """The address of triggers, such as ``https://10.1.0.1:5000/startrm``."""
        return f"{self.url}/{self.endpoint.strip('/')}"


class Invitation(msgspec.Struct, frozen=True, array_like=True):
    """The content of the line. ``fingerprint`` is the SHA-256 of the certificate (DER)."""

    address: NodeAddress
    fingerprint: bytes
    secret: bytes


class PairRequest(msgspec.Struct, frozen=True):
    """What the accepting node sends. ``token`` is for the inviting node, to send runs to ``node``.

    ``certificate`` is in PEM form. ``now_ms`` is the wall clock of the accepting node.
    """

    address: NodeAddress
    certificate: str
    token: str
    now_ms: int


class PairAnswer(msgspec.Struct, frozen=True):
    """What the inviting node answers: its id, and a token with the scope ``trigger``.

    ``replaced`` is the address of the entry in its nodes.conf that was replaced, if any.
    """

    node: str
    token: str
    replaced: str | None = None


# The detail of a refusal for every token or secret that is not known. It does not show whether
# there is an invitation.
NOT_KNOWN = "this token is not known here: it is wrong, or it was revoked"


class StoredInvitation(msgspec.Struct, frozen=True):
    """What the inviting node stores of an invitation: the SHA-256 of the secret, and its time.

    The time is measured since the boot of the machine with the id ``boot``, in milliseconds. Nobody
    can set this clock. ``used_by`` is the id of the node that has used the invitation.
    """

    sha256: str
    boot: str
    from_boot_ms: int
    until_boot_ms: int
    used_by: str | None = None
    has_failed: bool = False

    def is_for(self, secret: str) -> bool:
        """Whether this is the invitation with a secret. Takes the same time for any secret."""
        return hmac.compare_digest(self.sha256, digest_of(secret[:128]))

    def why_refused(self, now: Moment) -> str | None:
        """Why the secret is refused although it is right; None: it is accepted."""
        if self.used_by is not None:
            return f"this invitation was used already, by node {self.used_by}"
        if self.has_failed:
            return f"this invitation is void: a wrong secret was sent {MAX_WRONG_SECRETS} times"
        in_time = self.from_boot_ms <= now.boot_ms < self.until_boot_ms
        if self.boot != now.boot or not in_time:
            return f"this invitation has expired: it was valid for {VALID_MS // 60_000} minutes"
        return None


def new_invitation(secret: bytes, now: Moment) -> StoredInvitation:
    """The invitation to store for a new secret."""
    return StoredInvitation(
        digest_of(secret_text(secret)), now.boot, now.boot_ms, now.boot_ms + VALID_MS
    )


def secret_text(secret: bytes) -> str:
    """The secret as the accepting node sends it, as a bearer token."""
    return SECRET_PREFIX + base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def line_text(invitation: Invitation) -> str:
    """The line to print: one word without characters that a shell changes."""
    content = msgspec.msgpack.encode(invitation)
    content += _checksum(content)
    return _LINE_PREFIX + base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def read_line(text: str) -> Invitation:
    """Read a line. Spaces and line ends in it are ignored. Raises CannotPair."""
    text = "".join(text.split())
    if not text.startswith(_LINE_PREFIX):
        if _ANY_LINE.match(text):
            raise CannotPair("this line was made by another version of fractal-rm; use the same"
                             " version on both machines")  # fmt: skip
        raise CannotPair("this is not a line of `fractal-rm pair invite`: such a line begins with"
                         f" {_LINE_PREFIX}")  # fmt: skip
    encoded = text.removeprefix(_LINE_PREFIX)
    try:
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        invitation = msgspec.msgpack.decode(_checked_content(content), type=Invitation)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise CannotPair("a part of the line is missing, or a character is wrong; copy the whole"
                         " line again") from None  # fmt: skip
    invitation.address.checked()
    return invitation


def _checked_content(content: bytes) -> bytes:
    """The content without its checksum. Raises ValueError if the checksum does not match."""
    content, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if checksum != _checksum(content):
        raise ValueError("the checksum does not match")
    return content


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(_LINE_PREFIX.encode() + content).digest()[:_CHECKSUM_BYTES]


def check_node_id(node: str) -> None:
    """Raise CannotPair if nodes with this id cannot be joined by the commands."""
    if not _NODE_ID.fullmatch(node):
        raise CannotPair(f"the node id {node[:60]!r} cannot be used: write up to 51 letters, digits"
                         " and ._-, beginning with a letter or a digit")  # fmt: skip


def check_host(host: str) -> None:
    """Raise CannotPair if ``host`` is not an address by which another machine can reach a node."""
    address = read_address(host)
    if address is None or "%" in host:
        raise CannotPair(f"{host[:60]!r} is not an IP address")
    if address.is_unspecified or address.is_multicast:
        raise CannotPair(f"{host} is not the address of one machine; give the address by which the"
                         " other machine reaches this node")  # fmt: skip
    if is_link_local(host):
        raise CannotPair(f"{host} is a link-local address, which each machine writes in another"
                         " way; give another address")  # fmt: skip


def check_distinct(own: str, other: str) -> None:
    """Raise CannotPair if two nodes have the same id."""
    if own == other:
        raise CannotPair(f"both nodes have the id {own}; each node needs an id of its own: change"
                         " node.id in comm.conf of one of them")  # fmt: skip


def check_clocks(own_ms: int, other_ms: int) -> None:
    """Raise CannotPair if two wall clocks differ so much that certificates may seem expired."""
    days = abs(own_ms - other_ms) // MAX_CLOCK_DIFFERENCE_MS
    if days:
        raise CannotPair(f"the clocks of the two machines differ by {days} days or more; set them"
                         " first, because certificates have dates")  # fmt: skip


def read_address_option(text: str) -> tuple[str, int | None]:
    """Read ``IP``, ``IP:PORT`` or ``[IPv6]:PORT``. Raises CannotPair."""
    host, port = text, ""
    bracket = re.fullmatch(r"\[([^]]*)\](?::(.*))?", text)
    if bracket:
        host, port = bracket[1], bracket[2] or ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise CannotPair(f"{port[:20]!r} is not a port")
    check_host(host)
    return str(read_address(host)), int(port) if port else None


def bracketed(host: str) -> str:
    """A host as in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host

"""DNS messages (RFC 1035, 4): a question for the addresses of a name, and its answer."""

from __future__ import annotations

import ipaddress

import msgspec

A, AAAA, CNAME = 1, 28, 5  # record types (RFC 1035, 3.2.2; RFC 3596, 2.1)
NO_ERROR, NO_SUCH_NAME, REFUSED = 0, 3, 5  # response codes (RFC 1035, 4.1.1)
CODES = {1: "format error", 2: "server failure", 4: "not implemented", REFUSED: "refused"}
_CLASS_INTERNET = 1
_HEAD_BYTES = 12
_IS_ANSWER, _AUTHORITATIVE, _TRUNCATED = 0x8000, 0x0400, 0x0200
_RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x0100, 0x0080
_MAX_ALIASES = 16  # how many CNAME records are followed
_MAX_POINTERS = 64  # how many pointers one name may have
_MAX_LABELS = 128
# How many records of an answer are read. An answer of 64 KiB could have so many pointers to a long
# name that reading it would take 0.2 s.
_MAX_RECORDS = 256
_ADDRESS_BYTES = {A: 4, AAAA: 16}


class DnsAnswer(msgspec.Struct, frozen=True):
    """The answer of a server: response code, addresses, and how long they are valid.

    A truncated answer has no addresses: the server must be asked again by TCP.
    """

    code: int
    truncated: bool
    addresses: tuple[str, ...] = ()
    ttl_s: int = 0


class _Record(msgspec.Struct, frozen=True):
    """A resource record. Its data has ``size`` bytes and begins at the index ``at``."""

    name: str
    kind: int
    ttl_s: int
    at: int
    size: int


def is_name(text: str) -> bool:
    """Whether a text is ASCII, and neither the text nor a label is too long (RFC 1035, 2.3.4)."""
    name = text.rstrip(".")
    label_sizes = [len(label) for label in name.split(".")]
    return text.isascii() and len(name) <= 253 and all(1 <= size <= 63 for size in label_sizes)


def question(message_id: int, name: str, kind: int) -> bytes:
    """A message that asks for the records of type ``kind`` (A, AAAA) of an absolute name."""
    counts = (1, 0, 0, 0)  # one question, and no answers, authorities and additional records
    head = b"".join(n.to_bytes(2, "big") for n in (message_id, _RECURSION_DESIRED, *counts))
    labels = name.rstrip(".").encode("ascii").split(b".")
    encoded_name = b"".join(bytes([len(label)]) + label for label in labels)
    record_type = kind.to_bytes(2, "big") + _CLASS_INTERNET.to_bytes(2, "big")
    return head + encoded_name + b"\0" + record_type


def read_answer(data: bytes, query: bytes) -> DnsAnswer | None:
    """Read ``data`` as an answer to the message ``query``; None: it is not an answer to it.

    An answer must repeat the id and the question; otherwise it may be forged (RFC 5452, 4).
    """
    try:
        return _read(data, query)
    except (IndexError, ValueError):
        return None


def _read(data: bytes, query: bytes) -> DnsAnswer | None:
    flags, questions, answers = (_number(data, at) for at in (2, 4, 6))
    code = flags & 0xF
    if data[:2] != query[:2] or not flags & _IS_ANSWER:
        return None
    if not questions and code in CODES:  # some servers do not repeat the question in an error
        return DnsAnswer(code, truncated=False)
    asked_name, _ = _name(query, _HEAD_BYTES)
    name, at = _name(data, _HEAD_BYTES)
    # The name in a question is followed by its type and class, of 2 bytes each.
    if questions != 1 or (name, data[at : at + 4]) != (asked_name, query[-4:]):
        return None
    if flags & _TRUNCATED:
        return DnsAnswer(code, truncated=True)
    if code == NO_ERROR and not answers and not flags & (_AUTHORITATIVE | _RECURSION_AVAILABLE):
        code = REFUSED  # a referral to other servers: this server does not resolve names for us
    records: list[_Record] = []
    at += 4
    for _ in range(min(answers, _MAX_RECORDS)):
        record = _record(data, at)
        at = record.at + record.size
        records.append(record)
    kind = _number(query, len(query) - 4)
    return _answer(data, code, records, name, kind)


def _answer(data: bytes, code: int, records: list[_Record], name: str, kind: int) -> DnsAnswer:
    """The answer with the addresses of ``name``. Aliases of the name (CNAME) are followed."""
    aliases = {record.name: record for record in records if record.kind == CNAME}
    ttls: list[int] = []
    for _ in range(_MAX_ALIASES):
        alias = aliases.get(name)
        if alias is None:
            break
        ttls.append(alias.ttl_s)
        name, _ = _name(data, alias.at)
    size = _ADDRESS_BYTES[kind]
    matching = [r for r in records if (r.name, r.kind, r.size) == (name, kind, size)]
    ttls += [record.ttl_s for record in matching]
    addresses = dict.fromkeys(
        str(ipaddress.ip_address(data[r.at : r.at + r.size])) for r in matching
    )
    return DnsAnswer(code, truncated=False, addresses=tuple(addresses), ttl_s=min(ttls, default=0))


def _record(data: bytes, at: int) -> _Record:
    """Read a record: name, type (2 bytes), class (2), TTL (4), size of the data (2), data."""
    name, at = _name(data, at)
    kind, size = _number(data, at), _number(data, at + 8)
    if at + 10 + size > len(data):
        raise IndexError
    return _Record(name, kind, int.from_bytes(data[at + 4 : at + 8], "big"), at + 10, size)


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name at an index, in lower case, and the index after it (pointers: RFC 1035, 4.1.4)."""
    labels: list[str] = []
    end = 0
    for _ in range(_MAX_POINTERS + _MAX_LABELS):
        size = data[at]
        if size >= 0xC0:  # a pointer: the rest of the name is at another index
            end = end or at + 2
            at = _number(data, at) & 0x3FFF
        elif size:
            labels.append(data[at + 1 : at + 1 + size].decode("latin-1").lower())
            at += 1 + size
        else:
            return ".".join(labels), end or at + 1
    raise ValueError("too many pointers in a name")


def _number(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        raise IndexError
    return data[at] << 8 | data[at + 1]

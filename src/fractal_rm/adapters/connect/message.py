"""DNS messages (RFC 1035, 4): one question for the addresses of a name, and the answer to it."""

from __future__ import annotations

import ipaddress

import msgspec

A, AAAA, CNAME = 1, 28, 5  # types of records (RFC 1035, 3.2.2; RFC 3596, 2.1)
NO_ERROR, NO_SUCH_NAME, REFUSED = 0, 3, 5  # codes of answers (RFC 1035, 4.1.1)
CODES = {1: "format error", 2: "server failure", 4: "not implemented", REFUSED: "refused"}
_IN = 1
_HEAD_BYTES = 12
_IS_ANSWER, _AUTHORITATIVE, _TRUNCATED = 0x8000, 0x0400, 0x0200
_RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x0100, 0x0080
_LONGEST_CHAIN = 16  # of CNAME records
_MOST_POINTERS = 64  # in one name
_MOST_RECORDS = 256  # that are read: 64 KiB of pointers to a long name take 0.2 s
_ADDRESS_BYTES = {A: 4, AAAA: 16}


class Answer(msgspec.Struct, frozen=True):
    """What a server says: a code, the addresses, and for how many seconds they hold."""

    code: int
    truncated: bool
    addresses: tuple[str, ...] = ()
    ttl_s: int = 0


class _Record(msgspec.Struct, frozen=True):
    name: str
    kind: int
    ttl_s: int
    at: int
    size: int


def is_name(text: str) -> bool:
    """Whether there can be a host of this name (RFC 1035, 2.3.4), whatever its characters are."""
    name = text.rstrip(".")
    return text.isascii() and len(name) <= 253 and all(1 <= len(x) <= 63 for x in name.split("."))


def question(number: int, name: str, kind: int) -> bytes:
    """The message that asks for the records of ``kind`` (A or AAAA) of an absolute name."""
    head = b"".join(n.to_bytes(2, "big") for n in (number, _RECURSION_DESIRED, 1, 0, 0, 0))
    labels = name.rstrip(".").encode("ascii").split(b".")
    asked = b"".join(bytes([len(label)]) + label for label in labels)
    return head + asked + b"\0" + kind.to_bytes(2, "big") + _IN.to_bytes(2, "big")


def read_answer(data: bytes, asked: bytes) -> Answer | None:
    """The answer to the message ``asked``; None where ``data`` is none, or cannot be read.

    What does not repeat the number and the question may be anybody's (RFC 5452, 4).
    """
    try:
        return _read(data, asked)
    except (IndexError, ValueError):
        return None


def _read(data: bytes, asked: bytes) -> Answer | None:
    flags, questions, answers = (_number(data, at) for at in (2, 4, 6))
    code = flags & 0xF
    if data[:2] != asked[:2] or not flags & _IS_ANSWER:
        return None
    if not questions and code in CODES:  # some do not repeat what they do not answer
        return Answer(code, truncated=False)
    name, at = _name(data, _HEAD_BYTES)
    if questions != 1 or (name, data[at : at + 4]) != (_name(asked, _HEAD_BYTES)[0], asked[-4:]):
        return None
    if flags & _TRUNCATED:
        return Answer(code, truncated=True)
    if code == NO_ERROR and not answers and not flags & (_AUTHORITATIVE | _RECURSION_AVAILABLE):
        code = REFUSED  # it knows of other servers, and asks none
    records: list[_Record] = []
    at += 4
    for _ in range(min(answers, _MOST_RECORDS)):
        record = _record(data, at)
        at = record.at + record.size
        records.append(record)
    kind = _number(asked, len(asked) - 4)
    return _answer(data, code, records, name, kind)


def _answer(data: bytes, code: int, records: list[_Record], name: str, kind: int) -> Answer:
    """Follow the aliases from ``name`` on, and take the addresses of what they end at."""
    aliases = {record.name: record for record in records if record.kind == CNAME}
    ttls: list[int] = []
    for _ in range(_LONGEST_CHAIN):
        alias = aliases.get(name)
        if alias is None:
            break
        ttls.append(alias.ttl_s)
        name, _ = _name(data, alias.at)
    size = _ADDRESS_BYTES[kind]
    found = [r for r in records if (r.name, r.kind, r.size) == (name, kind, size)]
    ttls += [record.ttl_s for record in found]
    addresses = dict.fromkeys(str(ipaddress.ip_address(data[r.at : r.at + r.size])) for r in found)
    return Answer(code, truncated=False, addresses=tuple(addresses), ttl_s=min(ttls, default=0))


def _record(data: bytes, at: int) -> _Record:
    name, at = _name(data, at)
    kind, size = _number(data, at), _number(data, at + 8)
    if at + 10 + size > len(data):
        raise IndexError
    return _Record(name, kind, int.from_bytes(data[at + 4 : at + 8], "big"), at + 10, size)


def _name(data: bytes, at: int) -> tuple[str, int]:
    """A name in lower case, and where it ends. A pointer stands for the rest of it (4.1.4)."""
    labels: list[str] = []
    end = 0
    for _ in range(_MOST_POINTERS + 128):
        size = data[at]
        if size >= 0xC0:
            end = end or at + 2
            at = _number(data, at) & 0x3FFF
        elif size:
            labels.append(data[at + 1 : at + 1 + size].decode("latin-1").lower())
            at += 1 + size
        else:
            return ".".join(labels), end or at + 1
    raise ValueError("its pointers do not end")


def _number(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        raise IndexError
    return data[at] << 8 | data[at + 1]

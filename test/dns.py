"""A DNS server for tests, by UDP and TCP on one loopback port."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import asynccontextmanager

from fractal_rm.adapters.connect import Resolver
from fractal_rm.adapters.operating_system import SystemRandom

A, CNAME, AAAA = 1, 5, 28
SILENT = "silent"
SERVER_FAILURE, NO_SUCH_NAME = 2, 3


class Dns(asyncio.DatagramProtocol):
    """A DNS server. ``answers``: name -> list of addresses and aliases, response code, or SILENT.

    The value may also be a function that makes the answer to a question, or a dictionary with a
    value for each record type. Other names do not exist.

    ``asked``: the received questions (name and type). ``only_tcp``: answers by UDP are truncated.
    """

    def __init__(self, answers: dict[str, object], ttl_s: int = 300) -> None:
        self.answers = answers
        self.ttl_s = ttl_s
        self.asked: list[tuple[str, int]] = []
        self.only_tcp = False
        self.before = b""  # a datagram that is sent before each answer

    def connection_made(self, transport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr) -> None:
        answer = self.answer(data, cut=self.only_tcp)
        if answer is not None:
            if self.before:
                self._transport.sendto(self.before, addr)
            self._transport.sendto(answer, addr)

    async def by_tcp(self, reader, writer) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = self.answer(await reader.readexactly(size), cut=False)
        if answer is not None:
            writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()

    def answer(self, asked: bytes, *, cut: bool) -> bytes | None:
        name, kind = _asked(asked)
        self.asked.append((name, kind))
        known = self.answers.get(name, NO_SUCH_NAME)
        if known == SILENT or (isinstance(known, dict) and known.get(kind) == SILENT):
            return None
        if callable(known):
            return known(asked)
        if isinstance(known, dict):
            known = known.get(kind, ())
        if isinstance(known, int):
            return _message(asked, 0x8180 | known, [])
        return _message(asked, 0x8380, []) if cut else _message(
            asked, 0x8180, self._records(name, known, kind)
        )  # fmt: skip

    def _records(self, name: str, known, kind: int) -> list[bytes]:
        records, owner = [], b"\xc0\x0c"  # a pointer to the question
        for each in known:
            try:
                packed = ipaddress.ip_address(each).packed
            except ValueError:
                records.append(_record(owner, CNAME, self.ttl_s, _labels(each)))
                owner = _labels(each)
                continue
            if kind == (A if len(packed) == 4 else AAAA):
                records.append(_record(owner, kind, self.ttl_s, packed))
        return records


def _asked(message: bytes) -> tuple[str, int]:
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels), int.from_bytes(message[at + 1 : at + 3], "big")


def _message(asked: bytes, flags: int, records: list[bytes]) -> bytes:
    counts = b"\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
    return asked[:2] + flags.to_bytes(2, "big") + counts + asked[12:] + b"".join(records)


def _record(owner: bytes, kind: int, ttl_s: int, data: bytes) -> bytes:
    head = kind.to_bytes(2, "big") + b"\0\1" + ttl_s.to_bytes(4, "big")
    return owner + head + len(data).to_bytes(2, "big") + data


def _labels(name: str) -> bytes:
    return b"".join(bytes([len(each)]) + each.encode() for each in name.split(".")) + b"\0"


@asynccontextmanager
async def resolving(folder, answers, *, servers="nameserver 127.0.0.1\n", hosts="", nsswitch="",
                    **more):  # fmt: skip
    """Run a DNS server and a `Resolver` that asks it. Its files are in ``folder``."""
    dns = Dns(answers, **more)
    loop = asyncio.get_running_loop()
    listening = await asyncio.start_server(dns.by_tcp, "127.0.0.1", 0)
    dns.port = listening.sockets[0].getsockname()[1]
    dns.files = {}
    for name, text in (("resolv.conf", servers), ("hosts", hosts), ("nsswitch.conf", nsswitch)):
        dns.files[name] = folder / name
        dns.files[name].write_text(text)
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    opened.bind(("127.0.0.1", dns.port))
    transport, _ = await loop.create_datagram_endpoint(lambda: dns, sock=opened)
    names = Resolver(
        SystemRandom().token,
        resolv_conf=dns.files["resolv.conf"],
        hosts=dns.files["hosts"],
        nsswitch=dns.files["nsswitch.conf"],
        port=dns.port,
    )
    try:
        yield dns, names
    finally:
        names.close()
        transport.close()
        listening.close()

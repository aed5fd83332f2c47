"""A DNS server for tests, on one loopback port for UDP and TCP."""

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
RESPONSE = 0x8180  # the flags of a response without an error
TRUNCATED = 0x0200


class Dns(asyncio.DatagramProtocol):
    """A DNS server. ``answers`` has the answer for each name. Names without an answer do not exist.

    An answer is a list of addresses and aliases, a response code, or SILENT if the server sends no
    response. It may be a function that returns the response to a query, or a dictionary that has
    an answer for each record type.

    ``questions`` has the received questions: pairs of name and record type. If ``only_tcp``, all
    responses by UDP are truncated.
    """

    def __init__(self, answers: dict[str, object], ttl_s: int = 300) -> None:
        self.answers = answers
        self.ttl_s = ttl_s
        self.questions: list[tuple[str, int]] = []
        self.only_tcp = False
        self.datagram_before = b""  # a datagram that is sent before each response by UDP

    def connection_made(self, transport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr) -> None:
        response = self.response_to(data, truncated=self.only_tcp)
        if response is not None:
            if self.datagram_before:
                self._transport.sendto(self.datagram_before, addr)
            self._transport.sendto(response, addr)

    async def serve_tcp(self, reader, writer) -> None:
        """Answer the question of a TCP connection, and close the connection."""
        size = int.from_bytes(await reader.readexactly(2), "big")
        response = self.response_to(await reader.readexactly(size), truncated=False)
        if response is not None:
            writer.write(len(response).to_bytes(2, "big") + response)
        writer.close()

    def response_to(self, query: bytes, *, truncated: bool) -> bytes | None:
        """The response to a query message; None if the server sends no response."""
        name, record_type = _question(query)
        self.questions.append((name, record_type))
        answer = self.answers.get(name, NO_SUCH_NAME)
        if answer == SILENT or (isinstance(answer, dict) and answer.get(record_type) == SILENT):
            return None
        if callable(answer):
            return answer(query)
        if isinstance(answer, dict):
            answer = answer.get(record_type, ())
        if isinstance(answer, int):
            return _response(query, RESPONSE | answer, [])
        if truncated:
            return _response(query, RESPONSE | TRUNCATED, [])
        return _response(query, RESPONSE, self._records(answer, record_type))

    def _records(self, answer, record_type: int) -> list[bytes]:
        records, owner = [], b"\xc0\x0c"  # a pointer to the name in the question
        for each in answer:
            try:
                packed = ipaddress.ip_address(each).packed
            except ValueError:  # an alias
                records.append(_record(owner, CNAME, self.ttl_s, _encoded_name(each)))
                owner = _encoded_name(each)
                continue
            if record_type == (A if len(packed) == 4 else AAAA):
                records.append(_record(owner, record_type, self.ttl_s, packed))
        return records


def _question(query: bytes) -> tuple[str, int]:
    """The name and the record type of the question in a query message."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    return ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big")


def _response(query: bytes, flags: int, records: list[bytes]) -> bytes:
    counts = b"\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
    return query[:2] + flags.to_bytes(2, "big") + counts + query[12:] + b"".join(records)


def _record(owner: bytes, record_type: int, ttl_s: int, data: bytes) -> bytes:
    head = record_type.to_bytes(2, "big") + b"\0\1" + ttl_s.to_bytes(4, "big")
    return owner + head + len(data).to_bytes(2, "big") + data


def _encoded_name(name: str) -> bytes:
    return b"".join(bytes([len(each)]) + each.encode() for each in name.split(".")) + b"\0"


@asynccontextmanager
async def resolving(folder, answers, *, servers="nameserver 127.0.0.1\n", hosts="", nsswitch="",
                    **options):  # fmt: skip
    """Run a DNS server, and a `Resolver` that sends its queries to this server. Yields both.

    The resolver reads the files resolv.conf, hosts and nsswitch.conf in ``folder``, which are
    written with the texts ``servers``, ``hosts`` and ``nsswitch``. ``options`` are those of `Dns`.
    """
    dns = Dns(answers, **options)
    loop = asyncio.get_running_loop()
    listening = await asyncio.start_server(dns.serve_tcp, "127.0.0.1", 0)
    dns.port = listening.sockets[0].getsockname()[1]
    dns.files = {}
    for name, text in (("resolv.conf", servers), ("hosts", hosts), ("nsswitch.conf", nsswitch)):
        dns.files[name] = folder / name
        dns.files[name].write_text(text)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    udp.bind(("127.0.0.1", dns.port))
    transport, _ = await loop.create_datagram_endpoint(lambda: dns, sock=udp)
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

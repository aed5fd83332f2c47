"""A flood of wrong tokens: its refusals are sent late, and other clients are answered at once."""

from __future__ import annotations

import asyncio

import msgspec
from test_rest_requests import Wire, protocol_factory

from fractal_rm.config.model import Rest
from fractal_rm.domain.access import Identity, Scope
from fractal_rm.web.access import REFUSALS_AT_ONCE
from fractal_rm.web.limits import DEFAULT_LIMITS

# Refusals that are late are never sent in these tests.
LIMITS = msgspec.structs.replace(DEFAULT_LIMITS, late_s=1e6, max_late=3)


class OneToken:
    """Port `Authenticator`: only the token "right" is valid."""

    has_tokens = True
    is_inviting = False

    def warnings(self) -> list[str]:
        return []

    def identify(self, token: str) -> Identity | str:
        return Identity("token t", frozenset({Scope.READ})) if token == "right" else "it is wrong"


class Clients:
    """Connections of other machines to one server."""

    def __init__(self) -> None:
        self._connect = protocol_factory(Rest(host="10.1.0.1"), OneToken(), LIMITS, lambda: 0.0)
        self._connections = []

    def send(self, address: str, token: str) -> Wire:
        wire, connection = Wire(address), self._connect()
        connection.connection_made(wire)
        head = f"GET /livez HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        connection.data_received(head.encode())
        self._connections.append(connection)
        return wire

    def end(self) -> None:
        for connection in self._connections:
            connection.connection_lost(None)


async def answered(wire: Wire) -> bytes:
    """The status line of the response."""
    while not wire.sent:
        await asyncio.sleep(0)
    return wire.sent.split(b"\r\n")[0]


async def test_a_flood_of_wrong_tokens_is_answered_late_and_other_clients_at_once():
    clients = Clients()
    for _ in range(REFUSALS_AT_ONCE):
        assert b" 401 " in await answered(clients.send("10.9.0.9", "wrong"))
    late = [clients.send("10.9.0.9", "wrong") for _ in range(LIMITS.max_late)]
    assert b" 401 " in await answered(clients.send("10.9.0.8", "wrong"))
    assert b" 200 " in await answered(clients.send("10.9.0.8", "right"))
    assert b" 200 " in await answered(clients.send("10.9.0.9", "right"))
    assert [wire.sent for wire in late] == [b""] * LIMITS.max_late
    assert not any(wire.is_closing() for wire in late)
    # No more refusals may wait, so further connections are aborted without an answer.
    excess = clients.send("10.9.0.9", "wrong")
    assert excess.is_closing()
    clients.end()

"""What is written on a node when it is joined with another node: texts of files, without I/O.

In the state folder, the folder ``pair`` has the key and the certificate of this node
(``node.key``, ``node.pem``), and for each node that was joined its certificate (``node-ID.pem``)
and the token for it (``node-ID.token``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fractal_rm.config.json_edit import NotAnObject, with_value, without_key
from fractal_rm.config.model import Config, Node, Rest
from fractal_rm.domain.access import Scope
from fractal_rm.domain.address import is_loopback, read_address
from fractal_rm.domain.pairing import CannotPair, NodeAddress, check_host, check_node_id
from fractal_rm.domain.tokens import Token, digest_of

TOKEN_MS = 10 * 365 * 86_400_000  # the same time as a certificate by default
LOOPBACK = "127.0.0.1"
# The keys of an entry that are kept when the node is joined again.
_KEPT_KEYS = ("limit", "timeout_s", "connect_timeout_s", "max_response_bytes")
Setting = tuple[tuple[str, ...], Any]  # a path of keys in a file, and the new value


class PairFolder:
    """The paths of the files in the folder ``pair``. ``config`` names the state folder."""

    def __init__(self, config: Config) -> None:
        self.path = Path(config.state_path) / "pair"
        self._base = Path(config.folder).parent
        self.certificate = self.path / "node.pem"
        self.key = self.path / "node.key"
        self.invitation = self.path / "invitation.json"

    def certificate_of(self, node: str) -> Path:
        """The file with the certificate of another node."""
        return self.path / f"node-{node}.pem"

    def token_for(self, node: str) -> Path:
        """The file with the token that this node sends to another node."""
        return self.path / f"node-{node}.token"

    def in_configuration(self, path: Path) -> str:
        """A path as it is written in the configuration: if possible, relative."""
        try:
            return str(path.relative_to(self._base))
        except ValueError:
            return str(path)


def token_name(node: str) -> str:
    """The name of the token that another node sends to this node."""
    return f"pair-{node}"


def new_token(node: str, text: str, now_ms: int) -> Token:
    """The token with which another node starts runs here."""
    return Token(token_name(node), digest_of(text), [Scope.TRIGGER], now_ms, now_ms + TOKEN_MS)


def set_token(tokens: list[Token], token: Token) -> None:
    """Add a token. It replaces the token with its name."""
    tokens[:] = [each for each in tokens if each.name != token.name] + [token]


# --- this node --------------------------------------------------------------------------------


def own_address(
    config: Config,
    *,
    name: str | None,
    address: tuple[str, int | None] | None,
    default_host: Callable[[], str | None],
) -> NodeAddress:
    """How the other node will reach this node. Raises CannotPair.

    ``name`` and ``address`` are the options of the command; None: not given. ``default_host`` is
    used if neither an address is given nor `rest.host` is one.
    """
    host, port = address or (None, None)
    configured = read_address(config.rest.host)
    is_usable = configured and not configured.is_unspecified
    if configured and configured.is_loopback and config.rest.tls is None:
        is_usable = False  # the default, which other machines do not reach
    if host is None:
        host = str(configured) if is_usable else default_host()
    if host is None:
        raise CannotPair("give the address by which the other machine reaches this node:"
                         " --address IP")  # fmt: skip
    check_host(host)
    _check_listening(config.rest, host)
    return NodeAddress(
        _own_id(config, name), host, port or config.rest.port, config.rest.endpoint
    ).checked()


def _own_id(config: Config, name: str | None) -> str:
    if config.node_id is None and name is None:
        raise CannotPair("comm.conf has no node.id, by which the other node and the balancer name"
                         " this node; give it: --name ID")  # fmt: skip
    if name is not None and config.node_id not in (None, name):
        raise CannotPair(f"node.id in comm.conf is {config.node_id}, not {name}; leave out --name,"
                         " or change node.id first")  # fmt: skip
    node = name or config.node_id or ""
    check_node_id(node)
    return node


def _check_listening(rest: Rest, host: str) -> None:
    """Raise CannotPair if `rest.host` would have to change to another address."""
    configured = read_address(rest.host)
    if configured is None or configured.is_loopback or str(configured) == host:
        return
    covers_all = configured.is_unspecified and (configured.version == 6 or ":" not in host)
    if not covers_all:
        raise CannotPair(f"rest.host in comm.conf is {rest.host}, so the node does not listen on"
                         f" {host}; give --address {rest.host}, or change rest.host to :: first"
                         " (every address)")  # fmt: skip


def clients_without_tls(rest: Rest, host: str) -> bool:
    """Whether clients may use HTTP where the node would serve HTTPS afterwards."""
    if rest.tls is not None:
        return False
    shared = rest.host == "localhost" or is_loopback(rest.host)
    return not shared or is_loopback(host)


def comm_settings(
    config: Config, own: NodeAddress, certificate: tuple[str, str] | None
) -> list[Setting]:
    """What changes in comm.conf. ``certificate``: the paths of a new certificate and its key."""
    settings: list[Setting] = []
    if config.node_id is None:
        settings.append((("node", "id"), _id_value(own.node)))
    host = read_address(config.rest.host)
    if host is None or (str(host) != own.host and not host.is_unspecified):
        is_same = config.rest.host == "localhost" and own.host == LOOPBACK
        settings += [] if is_same else [(("rest", "host"), own.host)]
    if config.rest.port != own.port:
        settings.append((("rest", "port"), own.port))
    if certificate is not None:
        cert, key = certificate
        if config.rest.tls is None:
            settings.append((("rest", "tls"), {"cert": cert, "key": key}))
        else:
            settings += [(("rest", "tls", "cert"), cert), (("rest", "tls", "key"), key)]
    return settings


def with_settings(text: str, settings: Iterable[Setting]) -> str:
    """Return the text of comm.conf with new values. Raises CannotPair."""
    try:
        for path, value in settings:
            text = with_value(text, path, value)
    except NotAnObject as error:
        raise CannotPair(f"comm.conf cannot be changed: {error}") from error
    return text


# --- the other node ---------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True):
    """The entry of the other node in nodes.conf: its name, its value, and what it replaces."""

    name: str
    value: dict[str, Any]
    replaced: str | None

    def in_text(self, text: str) -> str:
        """Return the text of nodes.conf with this entry."""
        return with_value(text, (self.name,), self.value)


def node_entry(
    text: str, nodes: Mapping[str, Node], peer: NodeAddress, folder: PairFolder
) -> Entry:
    """The entry for the other node. ``text`` and ``nodes`` are nodes.conf, before."""
    old = nodes.get(peer.node)
    content: dict[str, Any] = json.loads(text.removeprefix("\ufeff"))
    name = _free_name(content, peer.node) if old is None else old.name
    old_config: dict[str, Any] = {} if old is None else content[old.name]["config"]
    config = {
        "protocol": "https",
        "ip": peer.host,
        "port": peer.port,
        "endpoint": peer.endpoint.strip("/") or "/",
        "peer": "fractal",
        "token": f"${{file:{folder.in_configuration(folder.token_for(peer.node))}}}",
        "tls": {"ca": folder.in_configuration(folder.certificate_of(peer.node))},
        **{key: old_config[key] for key in _KEPT_KEYS if key in old_config},
    }
    replaced = None if old is None else old.url
    return Entry(name, {"id": _id_value(peer.node), "config": config}, replaced)


def nodes_without(text: str, nodes: Mapping[str, Node], node: str, folder: PairFolder) -> str:
    """Return the text of nodes.conf without a joined node. Other entries are not removed."""
    entry = nodes.get(node)
    if entry is None:
        return text
    ca = entry.offer.origin.tls and entry.offer.origin.tls.ca
    is_joined = ca is not None and os.path.realpath(ca) == os.path.realpath(
        folder.certificate_of(node)
    )
    return without_key(text, (entry.name,)) if is_joined else text


def _free_name(content: Mapping[str, Any], node: str) -> str:
    name = node
    while name in content:
        name = f"node-{name}"
    return name


def _id_value(node: str) -> int | str:
    """An id as people write it: a number without quotes."""
    return int(node) if node.isdigit() and str(int(node)) == node else node

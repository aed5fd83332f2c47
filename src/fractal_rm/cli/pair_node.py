"""Prepares this node for another one: its id, its address, its key and its certificate."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.pairing_client import served_certificate
from fractal_rm.adapters.tls.own_certificate import fault_in_pinned, make_certificate, own_pem
from fractal_rm.cli.options import read_config
from fractal_rm.config.load import read_file
from fractal_rm.config.model import Config, Rest
from fractal_rm.config.pair_files import (
    PairFolder,
    Setting,
    clients_without_tls,
    comm_settings,
    own_address,
    with_settings,
)
from fractal_rm.config.staged_files import PRIVATE, FileChange
from fractal_rm.domain.address import read_address
from fractal_rm.domain.findings import ConfigRejected, Finding
from fractal_rm.domain.pairing import (
    CannotPair,
    NodeAddress,
    read_address_option,
)

DAY_MS = 86_400_000
CONNECT_S = 5
LISTEN_LIMIT_S = 30  # a running node takes up a change within a second
POLL_S = 0.1


class NodeOptions(msgspec.Struct, frozen=True):
    """The options that `invite` and `accept` have in common. ``days``: of a new certificate."""

    folder: Path
    name: str | None
    address: str | None
    days: int
    new_certificate: bool
    switch_to_https: bool


class PreparedNode(msgspec.Struct, frozen=True):
    """What must change on this node, and its certificate (PEM). ``shown`` describes the changes."""

    config: Config
    own: NodeAddress
    certificate: str
    changes: list[FileChange]
    shown: list[str]

    @property
    def pair_folder(self) -> PairFolder:
        """The folder with the files of joined nodes."""
        return PairFolder(self.config)


def prepare_node(options: NodeOptions, default_host: Callable[[], str | None]) -> PreparedNode:
    """Read the configuration, and find out what must change. Writes nothing.

    ``default_host`` returns the address of this node if the command and the configuration have
    none. Raises FractalError.
    """
    config = read_config(options.folder)
    address = None if options.address is None else read_address_option(options.address)
    own = own_address(config, name=options.name, address=address, default_host=default_host)
    _check_own_address(own.host)
    if clients_without_tls(config.rest, own.host) and not options.switch_to_https:
        raise CannotPair(
            f"other programs possibly use http://{config.rest.host}:{config.rest.port}. After this"
            " command, the node serves only HTTPS at this address, so they would fail. If that is"
            " right, add --switch-to-https"
        )
    certificate, changes, shown = _certificate(options, config, own)
    pair = PairFolder(config)
    paths = (pair.in_configuration(pair.certificate), pair.in_configuration(pair.key))
    tls = config.rest.tls
    is_configured = tls and (tls.cert, tls.key) == (str(pair.certificate), str(pair.key))
    settings = comm_settings(config, own, paths if changes and not is_configured else None)
    if settings:
        path = options.folder / "comm.conf"
        text = with_settings(read_text(path), settings)
        changes = [*changes, FileChange(path, text.encode())]
    return PreparedNode(config, own, certificate, changes, [*_describe(settings), *shown])


def _check_own_address(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        raise CannotPair(f"this machine does not have the address {host}; give --address IP with"
                         " an address of this machine") from None  # fmt: skip


def _certificate(
    options: NodeOptions, config: Config, own: NodeAddress
) -> tuple[str, list[FileChange], list[str]]:
    """The certificate of this node, and the files to write if it is a new one."""
    tls = config.rest.tls
    if tls is not None and tls.cert is not None and not options.new_certificate:
        fault = fault_in_pinned(tls.cert, tls.key or tls.cert, own.host)
        if fault is None:
            return own_pem(tls.cert), [], []
        raise CannotPair(
            f"another node cannot use the certificate {tls.cert}: {fault}. Add --new-certificate to"
            " make a new one. Then join all nodes again that were joined with this node before"
        )
    pair, now_ms = PairFolder(config), SystemClock.now_ms()
    made = make_certificate(own.node, own.host, now_ms, options.days)
    files = [
        FileChange(pair.key, made.key, PRIVATE),
        FileChange(pair.certificate, made.certificate, PRIVATE),
    ]
    last = datetime.fromtimestamp((now_ms + options.days * DAY_MS) / 1000, timezone.utc)
    name = pair.in_configuration(pair.certificate)
    shown = f"{name}, {pair.key.name}: a new certificate and its key, valid until {last:%Y-%m-%d}"
    return made.certificate.decode(), files, [shown]


def _describe(settings: Iterable[Setting]) -> list[str]:
    return [f"comm.conf: {'.'.join(path)} = {json.dumps(value)}" for path, value in settings]


def read_text(path: Path) -> str:
    """The text of a configuration file, as it is. Raises ConfigRejected."""
    text = read_file(path)
    if isinstance(text, Finding):
        raise ConfigRejected([text])
    return text


def is_listening(rest: Rest) -> bool:
    """Whether a program listens at the address that a configuration has."""
    address = read_address(rest.host)
    host = "127.0.0.1" if address is None or address.is_unspecified else rest.host
    try:
        socket.create_connection((host, rest.port), CONNECT_S).close()
    except OSError:
        return False
    return True


def listens_with(own: NodeAddress, certificate: str) -> bool:
    """Wait until this node listens at its address with its certificate. False: it does not."""
    wanted = ssl.PEM_cert_to_DER_cert(certificate)
    end_s = SystemClock.monotonic_s() + LISTEN_LIMIT_S
    while SystemClock.monotonic_s() < end_s:
        try:
            if served_certificate(own.host, own.port) == wanted:
                return True
        except OSError:
            pass
        time.sleep(POLL_S)
    return False

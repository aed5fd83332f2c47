"""Reads the section ``rest`` of comm.conf: the endpoint for triggers, and its trusted peers."""

from __future__ import annotations

import re

from fractal_rm.config.model import PublicUrl, Rest
from fractal_rm.config.section import Section
from fractal_rm.config.targets import is_valid_host, read_tls
from fractal_rm.domain.address import (
    PLAIN_PATH,
    Network,
    is_listen_address,
    is_loopback,
    read_network,
    read_origin,
    too_wide_networks,
)
from fractal_rm.domain.call import Tls

MAX_PORT = 65_535
_RESERVED_PATH = re.compile(r"/(schema|livez|readyz|metrics|v1/(flows|runs|node|pair))(/|$)")


def read_rest(comm: Section, *, has_tokens: bool) -> Rest:
    """Read the section ``rest`` of comm.conf. Adds a finding for each wrong value.

    ``has_tokens``: the node has tokens, so it can recognize clients of other machines.
    """
    section = comm.section("rest")
    if section is None:
        return Rest()
    default = Rest()
    peers, proxies = section.texts("trusted_peers"), section.texts("trusted_proxies")
    host = section.text("host", default.host) or default.host
    tls = _tls(section)
    if not section.is_unusable("host"):
        others_may_connect = has_tokens or (tls is not None and tls.ca is not None)
        _check_host(section, host, peers, tls, others_may_connect=others_may_connect)
        _check_proxies(section, host, proxies)
    settings = Rest(
        endpoint=_endpoint(section, default.endpoint),
        host=host,
        port=section.integer("port", default.port, 1, MAX_PORT),
        trusted_peers=_networks(section, "trusted_peers", peers),
        tls=tls,
        peer_rate=section.integer("peer_rate", default.peer_rate, 1, 1_000_000),
        public_url=_public_url(section),
        trusted_proxies=_networks(section, "trusted_proxies", proxies),
    )
    section.finish()
    return settings


def _tls(section: Section) -> Tls | None:
    """Read ``rest.tls``: paths of PEM files. ``cert`` is required; ``ca`` is for mutual TLS."""
    tls = read_tls(section, is_server=True)
    if tls is not None and tls.cert is None and not section.is_unusable("tls"):
        section.bad("tls", "rest.tls needs the certificate of this node",
                    'write {"cert": "node.pem", "key": "node.key"}')  # fmt: skip
        return None
    return tls


def _endpoint(section: Section, default: str) -> str:
    endpoint = "/" + (section.text("endpoint") or default).strip("/")
    if not PLAIN_PATH.fullmatch(endpoint):
        section.bad("endpoint", f"{endpoint} is not a plain path",
                    "write words of letters, digits and -._~, separated by slashes")  # fmt: skip
    elif _RESERVED_PATH.match(endpoint):
        section.bad(
            "endpoint",
            f"{endpoint} is reserved for other requests",
            "write another path",
        )
    return endpoint


def _public_url(section: Section) -> PublicUrl | None:
    """Read ``rest.public_url``: a URL without a path, because paths are not translated."""
    text = section.text("public_url")
    if not text:
        return None
    origin = read_origin(text.removesuffix("/").encode("utf-8", "replace"))
    if origin is None or not is_valid_host(origin[1]) or not 1 <= origin[2] <= MAX_PORT:
        section.bad("public_url", f"{text} is not a URL of a server",
                    "write http or https, and a host, such as https://fractal.example; a path is"
                    " not possible", "C233")  # fmt: skip
        return None
    return PublicUrl(*origin)


def _networks(section: Section, key: str, texts: list[str]) -> tuple[Network, ...]:
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(read_network(text))
        except ValueError as error:  # noqa: PERF203 - few
            section.bad(key, str(error),
                        "write an address, or a range such as 10.1.0.0/24", "C213")  # fmt: skip
    for network in too_wide_networks(networks):
        section.bad(
            key,
            f"{network} is too wide: it includes unknown machines",
            "write the network of the machines, or the address of each machine",
            "C214",
        )
    return tuple(networks)


def _check_host(
    section: Section, host: str, peers: list[str], tls: Tls | None, *, others_may_connect: bool
) -> None:
    """Check ``rest.host``. If other machines can reach this address, some of them must be allowed.

    ``others_may_connect``: clients with a token or a certificate are allowed.
    """
    is_closed = not peers and not others_may_connect and not section.is_unusable("trusted_peers")
    if host == "localhost" or is_loopback(host):
        if peers and not section.has("trusted_proxies"):  # peers can come through a local proxy
            section.warn("trusted_peers", "C216",
                         f"trusted peers cannot reach {host}: set rest.host too")  # fmt: skip
    elif is_closed and tls is None:
        section.bad("host", f"{host} can be reached from other machines without authentication",
                    "make a token with `fractal-rm token new`, or set rest.tls.ca, or list the"
                    " machines in rest.trusted_peers, or write 127.0.0.1",
                    "C208")  # fmt: skip
    elif not is_listen_address(host):
        section.bad("host", f"{host} is not the address of a machine",
                    "write an IP address of this machine; 0.0.0.0 and :: mean all of them",
                    "C215")  # fmt: skip
    elif is_closed:
        section.warn("host", "C217", "no other machine can use this node until it is joined with"
                     " `fractal-rm pair`, or has a token of `fractal-rm token new`")  # fmt: skip


def _check_proxies(section: Section, host: str, proxies: list[str]) -> None:
    """Warn of proxies that cannot reach ``rest.host``."""
    is_local = host == "localhost" or is_loopback(host)
    if is_local and proxies and not any(map(_has_loopback, proxies)):
        section.warn("trusted_proxies", "C216",
                     f"trusted proxies cannot reach {host}: set rest.host too")  # fmt: skip


def _has_loopback(text: str) -> bool:
    """Whether an address or a range belongs to this machine. It may not be valid."""
    return is_loopback(text.partition("/")[0])

"""``rest`` of comm.conf: where triggers are posted, and which machines may do so."""

from __future__ import annotations

import re

from fractal_rm.config.model import Rest
from fractal_rm.config.section import Section
from fractal_rm.domain.address import Network, is_host, is_loopback, read_network, too_wide

# What every client and proxy sends as it stands (RFC 3986, 2.3), and no router takes for a pattern.
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+|/")
_OWN_PATH = re.compile(r"/schema(/|$)")


def read_rest(comm: Section) -> Rest:
    """Read the section; what is wrong with it goes to its findings."""
    section = comm.section("rest")
    if section is None:
        return Rest()
    default = Rest()
    peers = section.texts("trusted_peers")
    host = section.text("host", default.host) or default.host
    if not section.is_unusable("host"):
        _check_host(section, host, peers)
    rest = Rest(
        endpoint=_endpoint(section, default.endpoint),
        host=host,
        port=section.whole("port", default.port, 1, 65_535),
        trusted_peers=_networks(section, peers),
    )
    section.finish()
    return rest


def _endpoint(section: Section, default: str) -> str:
    endpoint = "/" + (section.text("endpoint") or default).strip("/")
    if not _PLAIN_PATH.fullmatch(endpoint):
        section.bad("endpoint", f"{endpoint} is not a plain path",
                    "write words of letters, digits and -._~, with slashes between")  # fmt: skip
    elif _OWN_PATH.match(endpoint):
        section.bad("endpoint", f"{endpoint} is where the interface describes itself")
    return endpoint


def _networks(section: Section, peers: list[str]) -> tuple[Network, ...]:
    networks: list[Network] = []
    for text in peers:
        try:
            networks.append(read_network(text))
        except ValueError as error:  # noqa: PERF203 - few
            section.bad("trusted_peers", str(error),
                        "write an address, or a range such as 10.1.0.0/24", "C213")  # fmt: skip
    for network in too_wide(networks):
        section.bad("trusted_peers", f"{network} holds machines that nobody knows",
                    "name the network of the nodes, or each node", "C214")  # fmt: skip
    return tuple(networks)


def _check_host(section: Section, host: str, peers: list[str]) -> None:
    """What other machines can reach needs the names of those that may."""
    if host == "localhost" or is_loopback(host):
        if peers:
            section.warn("trusted_peers", "C216",
                         f"no other machine can reach {host}: set rest.host too")  # fmt: skip
    elif not peers and not section.is_unusable("trusted_peers"):
        section.bad("host", f"{host} can be reached from other machines, and nobody would be asked"
                    " who they are", "use 127.0.0.1, or name those machines in rest.trusted_peers",
                    "C208")  # fmt: skip
    elif not is_host(host):
        section.bad("host", f"{host} is not the address of a machine",
                    "write an IP address of this machine; 0.0.0.0 and :: are all of them",
                    "C215")  # fmt: skip

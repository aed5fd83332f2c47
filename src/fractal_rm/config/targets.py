"""Reads the addresses of components, nodes and the balancer."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote

import msgspec

from fractal_rm.config.certificates import check_tls
from fractal_rm.config.section import Section
from fractal_rm.domain.address import is_loopback
from fractal_rm.domain.call import FRAMING_HEADERS, TOKEN, Origin, Route, Tls, header_line, route

_TARGET_CHARACTERS = "/?&=:@!$'()*+,;~%-._[]"
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# A text that may be an IP address. The pattern is needed because `ipaddress` accepts any character
# in a zone, which is the part after "%".
_ADDRESS = re.compile(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?")


class Target(msgspec.Struct, frozen=True):
    """The address of a server, with limits in seconds and bytes."""

    origin: Origin
    headers: tuple[tuple[str, str], ...]
    connect_timeout_s: float
    timeout_s: float
    max_response_bytes: int

    def route(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = True,
        component: str | None = None,
        endpoint: str | None = None,
        node: str | None = None,
    ) -> Route:
        """Return the route to ``path`` on the server.

        ``path`` may begin with a slash. Characters that cannot be in a request line are
        percent-encoded as UTF-8. A ``%`` is not changed.
        """
        return route(
            self.origin,
            method,
            "/" + quote(path.lstrip("/"), safe=_TARGET_CHARACTERS),
            headers=self.headers,
            connect_timeout_s=self.connect_timeout_s,
            timeout_s=self.timeout_s,
            max_response_bytes=self.max_response_bytes,
            repeatable=repeatable,
            component=component,
            endpoint=endpoint,
            node=node,
        )


def read_target(section: Section, *, timeout_s: float) -> Target:
    """Read the keys of an address: ``protocol``, ``ip``, ``port`` and the optional keys."""
    protocol = section.one_of("protocol", ("http", "https"), None)
    if not section.has("protocol"):
        section.missing("protocol")
    if not section.has("port"):
        section.missing("port")
    tls = read_tls(section)
    if tls is not None and protocol == "http":
        section.warn("tls", "C229", "tls has no effect if protocol is http")
    host, token = _host(section), _token(section)
    if token and protocol == "http" and host and host != "localhost" and not is_loopback(host):
        section.warn("token", "C230",
                     "this token is sent without encryption: set protocol to https")  # fmt: skip
    return Target(
        origin=Origin(
            protocol=protocol or "http",
            host=host,
            port=section.integer("port", 80, 1, 65_535),
            tls=tls,
        ),
        headers=_headers(section) + token,
        connect_timeout_s=section.seconds("connect_timeout_s", min(3.0, timeout_s)),
        timeout_s=section.seconds("timeout_s", timeout_s),
        max_response_bytes=section.integer("max_response_bytes", 8 << 20, 1, 1 << 30),
    )


def _host(section: Section) -> str:
    """Read the key ``ip``. Returns the IP address or host name; "" if the value is not valid."""
    host = section.required_text("ip")
    if not host or is_valid_host(host):
        return host
    hint = None if host.isascii() else "write the name in its ASCII form, xn--…"
    if host.startswith("["):
        hint = "write an IPv6 address without brackets, and the port in its own key"
    section.bad("ip", "ip must be an IP address or a host name", hint)
    return ""


def is_valid_host(text: str) -> bool:
    """Return whether a text is an IP address or a valid host name."""
    if not _ADDRESS.fullmatch(text):
        return _HOST_NAME.fullmatch(text) is not None
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read_tls(section: Section, *, is_server: bool = False) -> Tls | None:
    """Read ``tls``: true, or an object with the paths of PEM files: ``ca``, ``cert`` and ``key``.

    A client has also ``server_name``. Returns None if ``tls`` is absent or false. `check_tls` says
    which files must exist.
    """
    inner = section.section_or_flag("tls")
    if isinstance(inner, bool):
        return Tls() if inner else None
    name = None if is_server else _server_name(inner)
    tls = Tls(inner.path("ca"), inner.path("cert"), inner.path("key"), name)
    if tls.key and not tls.cert:
        inner.missing("cert")
    check_tls(inner, tls, is_server=is_server)
    inner.finish()
    return tls


def _server_name(section: Section) -> str | None:
    """Read the name in the certificate of the server: a host name or an IP address."""
    name = section.text("server_name") or None
    if name is not None and not is_valid_host(name):
        section.bad("server_name", "server_name must be a host name or an IP address")
        return None
    return name


def _token(section: Section) -> tuple[tuple[str, str], ...]:
    """The header with the bearer token of the key ``token`` (RFC 6750, 2.1)."""
    token = section.text("token")
    if not token or section.is_unusable("token"):
        return ()
    if not _BEARER_TOKEN.fullmatch(token):
        section.bad("token", "this cannot be a token: it contains other characters than"
                    " letters, digits and -._~+/=")  # fmt: skip
        return ()
    if not section.has_reference("token"):
        section.warn("token", "C218", "this token can be read by everyone who can read this file:"
                     " write ${file:path} or ${env:NAME}")  # fmt: skip
    return (("Authorization", f"Bearer {token}"),)


def _headers(section: Section) -> tuple[tuple[str, str], ...]:
    inner = section.section("headers")
    if inner is None:
        return ()
    headers: list[tuple[str, str]] = []
    for name in inner.keys():  # noqa: SIM118 - not a dict
        value = inner.text(name) or ""
        try:
            header_line(name, value)
        except ValueError as error:
            inner.bad(name, f"this cannot be a header: {error}")
            continue
        if not TOKEN.fullmatch(name):
            inner.bad(name, f'"{name}" is not a valid header name (RFC 9110, 5.1)')
            continue
        if name.lower() in FRAMING_HEADERS:
            inner.bad(name, f"{name} is set by the program itself and cannot be configured")
            continue
        headers.append((name, value))
    return tuple(headers)

"""HTTP calls: the route of a request with its limits, and the response."""

from __future__ import annotations

import re
from enum import Enum
from typing import Protocol
from urllib.parse import quote

import msgspec

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # the name of a header (RFC 9110, 5.6.2)
_CONTROL = re.compile(r"[\0-\x08\n-\x1f\x7f]")  # all control characters except the tab
FRAMING_HEADERS = frozenset({"content-length", "transfer-encoding", "connection"})
_ACCEPT_HEADERS = (("Accept", "*/*"), ("Accept-Encoding", "identity"))  # RFC 9110, 12.5
# A flow must not set these headers.
RESERVED_HEADERS = FRAMING_HEADERS | {"idempotency-key", "fractal-time-left"}


class Tls(msgspec.Struct, frozen=True):
    """Paths of PEM files for TLS: a private CA, a client certificate, and the certificate's key.

    ``server_name`` is the name in the certificate of the server, if it is not its address.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


class Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """The server of a connection. Each origin has its own pool of connections."""

    protocol: str
    host: str
    port: int
    tls: Tls | None = None

    def __str__(self) -> str:
        return f"{self.protocol}://{_bracketed(self.host)}:{self.port}"

    def authority(self) -> str:
        """Host and port as in a request, without the zone of an IPv6 address (RFC 6874, 4)."""
        return f"{_bracketed(self.host.partition('%')[0])}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class Route(msgspec.Struct, frozen=True, eq=False):
    """The part of a request that is the same for every call of an endpoint.

    ``head`` has the request line and the fixed header lines. Each line ends with CRLF. Each call
    adds its own header lines, ``Content-Length``, the empty line and the body. ``repeatable``:
    whether the same request may be sent twice.

    ``component`` and ``endpoint`` are the names in components.conf; ``node`` is the id in
    nodes.conf. All three are None for the balancer.
    """

    origin: Origin
    method: str
    target: str
    head: bytes
    connect_timeout_s: float = 3.0
    timeout_s: float = 30.0
    max_response_bytes: int = 8 * 1024 * 1024
    repeatable: bool = True
    component: str | None = None
    endpoint: str | None = None
    node: str | None = None


def route(
    origin: Origin,
    method: str,
    target: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    connect_timeout_s: float = 3.0,
    timeout_s: float = 30.0,
    max_response_bytes: int = 8 * 1024 * 1024,
    repeatable: bool = True,
    component: str | None = None,
    endpoint: str | None = None,
    node: str | None = None,
) -> Route:
    """Make a route. ``target`` begins with ``/``. ``headers`` replace default headers.

    Raises ValueError if a header contains a control character or a character outside Latin-1.
    """
    fixed = [("Host", origin.authority()), ("User-Agent", "fractal-rm"), *_ACCEPT_HEADERS]
    if method != "GET":
        fixed.append(("Content-Type", "application/json"))
    replaced = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1".encode("latin-1")]
    lines += [header_line(n, v) for n, v in fixed if n.lower() not in replaced]
    lines += [header_line(n, v) for n, v in headers]
    return Route(
        origin=origin,
        method=method,
        target=target,
        head=b"".join(b"%b\r\n" % line for line in lines),
        connect_timeout_s=connect_timeout_s,
        timeout_s=timeout_s,
        max_response_bytes=max_response_bytes,
        repeatable=repeatable,
        component=component,
        endpoint=endpoint,
        node=node,
    )


def with_method(route: Route, method: str) -> Route:
    """The same route with another method. Both methods must have a body, or neither of them."""
    head = method.encode() + route.head[len(route.method) :]
    return msgspec.structs.replace(route, method=method, head=head)


def with_query(route: Route, parameters: list[tuple[str, str]]) -> Route:
    """The same route with more parameters, percent-encoded as UTF-8.

    Raises ValueError if a text cannot be encoded as UTF-8.
    """
    try:
        query = "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in parameters)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a parameter contains half of a surrogate pair: {error.object!r:.60}"
        ) from None
    target = route.target
    if query:
        target += ("&" if "?" in target else "?") + query
    head_after_target = route.head[len(f"{route.method} {route.target}") :]
    head = f"{route.method} {target}".encode("latin-1") + head_after_target
    return msgspec.structs.replace(route, target=target, head=head)


def with_headers(route: Route, headers: list[tuple[str, str]]) -> Route:
    """The same route with more headers. They replace the headers of the route with the same name.

    Raises ValueError if a header contains a control character or a character outside Latin-1.
    """
    names = {name.lower().encode("latin-1") for name, _ in headers}
    request_line, *lines = route.head.split(b"\r\n")[:-1]
    lines = [line for line in lines if line.partition(b":")[0].lower() not in names]
    lines += [header_line(name, value) for name, value in headers]
    return msgspec.structs.replace(route, head=b"\r\n".join([request_line, *lines, b""]))


def header_line(name: str, value: str) -> bytes:
    """The line of a header, without CRLF.

    Raises ValueError if the line contains a control character (RFC 9110, 5.5), or a character
    outside Latin-1.
    """
    line = f"{name}: {value}"
    control = _CONTROL.search(line)
    if control:
        raise ValueError(f"header {name!r} contains a control character: {control[0]!r}")
    try:
        return line.encode("latin-1")
    except UnicodeEncodeError as error:
        wrong = line[error.start]
        raise ValueError(
            f"header {name!r} contains {wrong!r} (U+{ord(wrong):04X}), which is not in Latin-1;"
            " send such text in the body, or with QUERY"
        ) from None


class HttpResponse(msgspec.Struct, frozen=True, gc=False):
    """An HTTP response: the final status, the head as received, and the whole body.

    ``head`` has the header lines, and may also have the status line. Each line ends with CRLF. The
    head is parsed each time a header is read, because headers are seldom read.
    """

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return self.headers_by_name().get(name.lower())

    def headers_by_name(self) -> dict[str, str]:
        """The first value of every header, by its name in lower case."""
        lines = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[::-1])
        return {name.lower(): value.strip(" \t") for name, colon, value in lines if colon}


class BodyForm(str, Enum):
    """How a body is written: as JSON, or as Python's ``str()`` of the decoded JSON."""

    JSON = "json"
    PYTHON_REPR = "python-repr"

    def __init__(self, text: str) -> None:
        self.is_json = text == "json"


class HttpCaller(Protocol):
    """Makes HTTP calls. ``adapters/http1`` implements this port; tests use ``adapters/memory``."""

    async def call(
        self,
        route: Route,
        body: bytes | None = None,
        headers: bytes = b"",
        timeout_s: float | None = None,
    ) -> HttpResponse:
        """Make one call. ``headers`` are header lines. Each of them ends with CRLF.

        ``timeout_s`` can shorten the time limit of the route, but not lengthen it.
        Raises ConnectFailed, CallTimedOut, BadReply or ReplyTooLarge, which are all CallFailed.
        """
        ...

    async def close(self) -> None:
        """Close all connections. Calls in flight fail. A second `close` has no effect."""
        ...

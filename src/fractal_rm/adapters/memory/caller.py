"""Components without a network: a function computes the reply to each request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from fractal_rm.domain.call import HttpResponse, Route
from fractal_rm.domain.call_errors import ConnectFailed


class ReceivedRequest(msgspec.Struct, frozen=True):
    """A request as a component would see it; header names in lower case."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    timeout_s: float | None = None  # set if the flow has a shorter timeout than the default


ReplyFunction = Callable[[ReceivedRequest], Awaitable[HttpResponse]]


class MemoryCaller:
    """Port `HttpCaller`. ``answers`` has a function for each URL.

    A call to any other URL fails, as if the component refused the connection.
    """

    def __init__(self, answers: dict[str, ReplyFunction] | None = None) -> None:
        self.answers = answers or {}
        self.requests: list[ReceivedRequest] = []
        self.closed = False

    async def call(
        self,
        route: Route,
        body: bytes | None = None,
        headers: bytes = b"",
        timeout_s: float | None = None,
    ) -> HttpResponse:
        """Answer a call; see the port."""
        url = f"{route.origin}{route.target}"
        received_headers = _headers(route.head + headers)
        request = ReceivedRequest(route.method, url, received_headers, body, timeout_s)
        answer = self.answers.get(url)
        if answer is None or self.closed:
            raise ConnectFailed(f"{route.origin}: connection refused")
        self.requests.append(request)
        return await answer(request)

    async def close(self) -> None:
        """Refuse the connections of all later calls."""
        self.closed = True


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(": ") for line in lines if line)
    return {name.lower(): value for name, _, value in pairs}

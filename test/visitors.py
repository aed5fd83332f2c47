"""A person with a browser, as bytes: cookies, forms and the headers that browsers send."""

from __future__ import annotations

import html
import http.client
import re
from typing import Any, NamedTuple
from urllib.parse import urlencode, urljoin

HOST = "127.0.0.1"
FORM = "application/x-www-form-urlencoded"
_TOKEN = re.compile(r'name="form_token" value="([^"]*)"')
# What somebody behind a proxy sends that is not in rest.trusted_proxies: nothing is known of them.
FROM_ELSEWHERE = {"X-Forwarded-For": "192.0.2.7"}


def shown_words(source: str, drawn: str = "") -> str:
    """What a person reads of the main part of a page, without what matches ``drawn``."""
    main = source.partition("<main")[2].partition("</main>")[0].partition(">")[2]
    words = re.sub(f"{drawn}|<[^>]*>" if drawn else "<[^>]*>", " ", main, flags=re.DOTALL)
    return " ".join(html.unescape(words).split())


class Page(NamedTuple):
    """A response. ``text`` is its content."""

    status: int
    headers: dict[str, str]
    text: str
    cookies: list[str]


class Visitor:
    """A browser at the node with this port. ``fields`` are sent with each request."""

    def __init__(self, port: int, **fields: str) -> None:
        self.port = port
        self.origin = f"http://{HOST}:{port}"
        self.fields = {name.replace("_", "-"): value for name, value in fields.items()}
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, body: bytes | None = None, **fields: str | None) -> Page:
        """Send a request. A field that is None is left out."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        sent: dict[str, Any] = {"Accept": "text/html", **self.fields}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= named
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        try:
            connection.request(method, path, body, {k: v for k, v in sent.items() if v is not None})
            answer = connection.getresponse()
            is_page = "text/html" in answer.headers.get("Content-Type", "")
            text = answer.read().decode(errors="strict" if is_page else "replace")
            headers = {name.lower(): value for name, value in answer.getheaders()}
            cookies = answer.headers.get_all("Set-Cookie") or []
        finally:
            connection.close()
        for cookie in cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if "Max-Age=0" not in cookie:
                self.cookies[name] = value
        return Page(answer.status, headers, text, cookies)

    def read(self, path: str = "/", **fields: str | None) -> Page:
        """Open a page."""
        return self.ask("GET", path, **fields)

    def follow(self, path: str, page: Page) -> str:
        """The path to which a response of ``path`` redirects."""
        return urljoin(path, page.headers["location"])

    def form_token(self, path: str = "/sign-in") -> str:
        """The token of the forms of a page."""
        found = _TOKEN.search(self.read(path).text)
        assert found, path
        return html.unescape(found[1])

    def send(self, path: str, values: dict[str, str] | None = None, **fields: str | None) -> Page:
        """Send a form as a browser does, with the form token of the page to sign in."""
        values = {"form_token": self.form_token(), **(values or {})}
        fields = {"Content_Type": FORM, "Origin": self.origin, **fields}
        return self.ask("POST", path, urlencode(values).encode(), **fields)

    def sign_in(self, token: str, **values: str) -> Page:
        """Sign in with a token."""
        return self.send("/sign-in", {"token": token, **values})

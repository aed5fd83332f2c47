"""A refusal as a small page, for somebody who opens a page of the node and may not.

It is made without the templates of the pages: whoever is refused makes the node load nothing.
"""

from __future__ import annotations

from html import escape
from typing import Any

from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.safe_text import safe_text
from fractal_rm.web.problems import Problem, answering_app, problem_app

_MAKE_ONE = (
    "To open the pages from here, make a token on the machine of the node:"
    " <code>fractal-rm token new NAME --scope read,payload,operate</code>. Then open this page"
    " again: it asks for the token."
)
# What to do about each kind of refusal, as HTML.
_ADVICE = {
    "peer-refused": _MAKE_ONE,
    "missing-scope": _MAKE_ONE,
    "unauthenticated": "Open this page again without this token, and sign in with another one.",
    "wrong-host": "Open the node by an address of its machine, by its name in nodes.conf, or by"
    " rest.public_url in comm.conf. At the machine itself, 127.0.0.1 is always possible.",
    "rate-limited": "Wait a second, and open this page again.",
}
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{detail}.</p>
<p>{advice}</p>
</main>
</body>
</html>
"""
_HEADERS = [
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]


def refusing_app(problem: Problem, *, as_page: bool) -> Any:
    """Make an ASGI application that answers with ``problem`` and closes the connection.

    ``as_page``: a browser has asked for a page, and gets one.
    """
    if not as_page:
        return problem_app(problem)
    return answering_app(
        problem.status, refusal_page(problem), "text/html; charset=utf-8", _HEADERS
    )


def refusal_page(problem: Problem) -> bytes:
    """The page, in UTF-8."""
    code = problem.type.removeprefix(CODE_PREFIX)
    detail = problem.detail[:1].upper() + problem.detail[1:]
    title, detail = escape(safe_text(problem.title)), escape(safe_text(detail))
    return _PAGE.format(title=title, detail=detail, advice=_ADVICE.get(code, "")).encode()

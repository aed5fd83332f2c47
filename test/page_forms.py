"""Fills in and sends the forms of pages over HTTP, as a browser does."""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urlencode, urljoin

from operator_stage import Answer

_FORM = re.compile(r'<form method="post"(?: action="([^"]*)")?>(.*?)</form>', re.DOTALL)
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)">')
_CHOSEN = re.compile(r'<input type="radio" name="([^"]*)" value="([^"]*)" required checked>')
_AREA = re.compile(r'<textarea[^>]* name="([^"]*)"[^>]*>\n(.*?)</textarea>', re.DOTALL)


class Form:
    """The form in the main part of a page: where it is sent, and its fields as they are shown."""

    def __init__(self, path: str, text: str) -> None:
        found = _FORM.search(main_part(text))
        assert found, f"{path} has no form"
        self.path = urljoin(path, html.unescape(found[1] or path))
        self.fields = {
            name: html.unescape(value)
            for pattern in (_HIDDEN, _CHOSEN, _AREA)
            for name, value in pattern.findall(found[2])
        }


def read(stage: Any, path: str, status: int | None = 200, token: str = "anna") -> str:
    """The text of a page."""
    answer = stage.ask("GET", path, token=token)
    assert status in (None, answer.status), answer.body
    return answer.body.decode()


def form_of(stage: Any, path: str, token: str = "anna") -> Form:
    """The form of a page. On a busy machine, a page may say first that it could not count."""
    text = ""
    for _ in range(50):
        text = read(stage, path, token=token, status=None)
        if "<form" in main_part(text):
            break
    return Form(path, text)


def send(stage: Any, form: Form, token: str = "anna", **fields: str) -> Answer:
    """Send a form. ``fields`` are those that a person has changed."""
    body = urlencode({**form.fields, **fields}).encode()
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Origin": stage.url.rstrip("/"),
    }
    return stage.ask("POST", form.path, body, token=token, **headers)


def main_part(text: str) -> str:
    """The main part of a page."""
    return text.partition('<main id="main">')[2].partition("</main>")[0]


def main_of(answer: Answer) -> str:
    """What a person reads of a page, without its markup."""
    body = answer.body if isinstance(answer.body, bytes) else b""
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", main_part(body.decode())).split()))

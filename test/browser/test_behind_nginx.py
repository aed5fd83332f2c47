"""The pages behind a real nginx: below a base path, and with nothing but `proxy_pass`."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from fractal_rm.config.model import PublicUrl
from nodes import HOST
from operator_stage import OPEN, operator_stage
from ports import free_port
from visitors import Visitor
from web_proxies import nginx

RUN = next(iter(OPEN.values()))
BELOW = """
location /line/3/ {{
    proxy_pass http://127.0.0.1:{port}/;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
}}"""
PLAIN = "location / {{ proxy_pass http://127.0.0.1:{port}; }}"


def test_everything_works_below_a_base_path_and_stays_there(tmp_path, open_tab):
    outside = free_port()
    public = PublicUrl("http", HOST, outside)
    (tmp_path / "state").mkdir()
    with (
        operator_stage(tmp_path / "state", public_url=public) as stage,
        nginx(tmp_path / "nginx", outside, BELOW.format(port=stage.port)),
    ):
        tab = open_tab(f"http://{HOST}:{outside}/line/3/")
        asked: list[str] = []
        tab.page.on("request", lambda request: asked.append(urlsplit(request.url).path))

        page = tab.go("runs?state=failed")
        expect(page).to_have_title("Sign in · node 1")
        page.get_by_label("Token").fill("admin")
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(f"{tab.url}runs?state=failed")

        tab.go(f"runs/{RUN}/nosuch/deep")
        page.get_by_role("button", name="Colours: light").click()
        expect(page).to_have_url(f"{tab.url}runs/{RUN}/nosuch/deep")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.get_by_role("navigation").get_by_role("link", name="Flows").click()
        expect(page).to_have_url(f"{tab.url}flows")
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_title("Sign in · node 1")

        assert [path for path in asked if not path.startswith("/line/3/")] == []


@pytest.mark.parametrize("public", [True, False])
def test_a_proxy_that_says_nothing_about_itself_gives_no_right_to_act(tmp_path, public):
    """Its requests look like those of a program on this machine, which may read without a token."""
    outside = free_port()
    (tmp_path / "state").mkdir()
    rest = {"public_url": PublicUrl("http", "node.example", outside)} if public else {}
    with (
        operator_stage(tmp_path / "state", **rest) as stage,
        nginx(tmp_path / "nginx", outside, PLAIN.format(port=stage.port)),
    ):
        person = Visitor(outside)
        person.origin = f"http://node.example:{outside}"
        assert person.read("/").status == 200
        answer = person.send(f"/runs/{RUN}/cancel")
        assert answer.status in (403, 421)
        answer = person.sign_in("operate")
        assert answer.status == (303 if public else 421)
        assert stage.actions.requests == []

"""A person corrects a message that was refused, sends it, and sees its run succeed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import expect

from mqtt_stage import send
from nodes import wait_until
from page_stage import PageStage

REFUSED = b'{"id_flow": "22", "payload": {"line": 3}}'


def test_a_dead_letter_is_edited_and_sent_and_its_run_succeeds(tmp_path, open_tab):
    stage = PageStage(tmp_path)
    try:
        stage.node.start()
        stage.node.wait_connected()
        with ThreadPoolExecutor() as thread:  # this one has the event loop of the browser
            thread.submit(asyncio.run, send(stage.broker, "line/3", REFUSED)).result()
        wait_until(stage.node.runs)
        tab = open_tab(stage.url)
        tab.sign_in(stage.token())

        page = tab.go()
        page.get_by_role("link", name="Dead letters").click()
        page.get_by_role("link", name="flows.conf has no flow").first.click()
        expect(page.locator("pre")).to_have_text(REFUSED.decode())
        page.get_by_role("link", name="Edit and send").click()
        message = page.get_by_label("Message")
        message.fill(message.input_value().replace('"22"', '"2", '))
        page.get_by_role("button", name="Check only").click()
        expect(page.locator("#checked")).to_contain_text("The message is not valid JSON")
        message.fill(message.input_value().replace('"2", ,', '"2",'))
        page.get_by_role("button", name="Send", exact=True).click()

        page.wait_for_url("**/runs/*?notice=sent")
        expect(page.locator("#main [role=status]")).to_contain_text("The message was sent")
        expect(page.locator(".head .state")).to_contain_text("succeeded")
        page.get_by_role("link", name="Dead letters").click()
        expect(page.locator(".empty")).to_contain_text("No dead letter needs attention")
    finally:
        stage.stop()

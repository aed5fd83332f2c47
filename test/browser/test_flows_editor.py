"""A person edits a flow in the browser: refused, mended, saved, tried, and rolled back."""

from __future__ import annotations

from playwright.sync_api import expect

from page_stage import page_stage


def test_a_flow_is_edited_refused_mended_saved_tried_and_rolled_back(tmp_path, open_tab):
    with page_stage(tmp_path, "empty", 0) as stage:
        flows = stage.node.config / "flows.conf"
        before = flows.read_text()
        tab = open_tab(stage.url)
        tab.sign_in(stage.token())
        page = tab.go("config")
        page.get_by_role("link", name="Edit flows.conf").click()
        text = page.get_by_label("Text of flows.conf")
        wrong = before.replace("TO store records\nPOST", "TO stor records\nPOST")

        text.fill(wrong)
        finding = page.locator("#checked").get_by_text('did you mean "store"?')
        finding.wait_for()
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("Not saved: the text has errors.")
        expect(text).to_have_value(wrong)
        assert flows.read_text() == before

        page.locator("#checked").get_by_role("link", name="flows.conf:").click()
        assert page.evaluate("document.activeElement.name") == "text"
        tab.go("config/edit/flows.conf")  # as after a sign-in that came in between
        expect(text).to_have_value(wrong)
        expect(page.get_by_text("This is your text from before. It is not saved.")).to_be_visible()
        finding.wait_for()
        page.get_by_role("button", name="Take the file on the disk instead").click()
        expect(text).to_have_value(before)
        finding.wait_for(state="detached")
        tab.go("config")
        tab.go("config/edit/flows.conf#L3")
        expect(text).to_be_focused()
        marked = text.evaluate("e => e.value.slice(e.selectionStart, e.selectionEnd)")
        assert marked == before.split("\n")[2]
        mended = before.replace("2 record the", "2 keep the")
        text.fill(mended)
        page.get_by_role("group", name="Picture of flow 4").wait_for()
        page.get_by_role("button", name="Save", exact=True).click()
        page.get_by_text("flows.conf is saved. The node uses it now.").wait_for()
        assert flows.read_text() == mended
        expect(page.get_by_text("token anna: edited flows.conf")).to_be_visible()

        page.get_by_role("link", name="Try flow").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Try")
        tab.go("config")
        page.get_by_role("link", name="go back to it").first.click()
        expect(page.get_by_text("1 file will be written: flows.conf")).to_be_visible()
        page.get_by_role("button", name="Go back to configuration 1").click()
        page.get_by_text("The node uses it now.").wait_for()
        assert flows.read_text() == before

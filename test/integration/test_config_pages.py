"""The pages of the configuration: what is in force, editing flows.conf, and the way back."""

from __future__ import annotations

import html
import re
import subprocess
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from components import Components
from nodes import HOST, NodeProcess, wait_until
from visitors import FORM, Visitor, shown_words

FLOWS = """\
1 first
TO component1 1
GET

2 second
TO component1 1
GET
  AS got
"""
SECRET = "hunter2-and-more"
CASES = """\
[[case]]
name = "the second flow succeeds"
flow = 2
payload = "{}"
[[case.reply]]
call = 1
json = {}
[case.expect]
state = "succeeded"
"""


class Page(NamedTuple):
    status: int
    location: str
    source: str

    @property
    def text(self) -> str:
        """What a person reads."""
        return shown_words(self.source, "<svg.*?</svg>")

    @property
    def draft(self) -> str:
        """The text of the text area, as a browser reads it."""
        [text] = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", self.source, re.DOTALL)
        return html.unescape(text)

    def field(self, name: str) -> str:
        return re.findall(rf'name="{name}" value="([^"]*)"', self.source)[0]


class Reader:
    """A browser without a picture, with a token."""

    def __init__(self, node: NodeProcess, *scopes: str) -> None:
        self.node = node
        words = [word for scope in scopes or ("admin",) for word in ("--scope", scope)]
        name = "-".join(scopes) or "anna"
        token = node.command("token", "new", name, *words).stdout.strip()
        self.browser = Visitor(
            node.rest, Authorization=f"Bearer {token}", Sec_Fetch_Site="same-origin"
        )

    def read(self, path: str) -> Page:
        return self._ask("GET", path)

    def send(self, page: Page, path: str, **fields: str) -> Page:
        fields = {"form_token": page.field("form_token"), **fields}
        return self._ask("POST", path, urlencode(fields))

    def open(self) -> Page:
        page = self.read("config/edit/flows.conf")
        assert page.status == 200, page.text
        return page

    def edit(self, page: Page, text: str, do: str = "save", **fields: str) -> Page:
        """Send the text as a browser does: with CR LF."""
        fields = {"digest": page.field("digest"), **fields}
        sent = text.replace("\n", "\r\n")
        return self.send(page, "config/edit/flows.conf", text=sent, do=do, **fields)

    def _ask(self, method: str, path: str, body: str | None = None) -> Page:
        fields = {} if body is None else {"Content_Type": FORM}
        answer = self.browser.ask(method, f"/{path}", body and body.encode(), **fields)
        return Page(answer.status, answer.headers.get("location", ""), answer.text)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node with a secret in components.conf."""
    components = Components()
    node = NodeProcess(tmp_path_factory.mktemp("pages"), components=components.port, mode="api")
    flows(node).write_text(FLOWS)
    target = {"protocol": "http", "ip": HOST, "port": components.port}
    config = {**target, "endpoints": {"1": "endpoint1"}, "headers": {"X-Api-Key": SECRET}}
    node.write("components", {"component1": {"config": config}})
    node.start()
    yield node
    node.stop()
    components.stop()


@pytest.fixture(scope="module")
def admin(node):
    return Reader(node)


@pytest.fixture(autouse=True)
def same_flows(node, admin):
    """Each test begins with the same flows in force."""
    yield
    (node.config / "flows.cases.toml").unlink(missing_ok=True)
    if flows(node).read_bytes() != FLOWS.encode():
        flows(node).write_text(FLOWS)
    wait_in_force(admin)


def flows(node):
    return node.config / "flows.conf"


def wait_in_force(reader: Reader) -> None:
    wait_until(lambda: "the files are in force" in reader.read("config").text)


def test_the_page_says_that_the_files_are_in_force_and_what_changed(node, admin):
    wait_in_force(admin)
    flows(node).write_text(FLOWS.replace("second", "another"))
    assert "differs" in admin.read("config").text or "in force" in admin.read("config").text
    wait_in_force(admin)
    difference = admin.read("config/diff?from=1&to=disk")
    assert "+2 another" in difference.text
    assert "−2 second" in difference.text or "-2 second" in difference.text


def test_files_with_errors_are_shown_with_their_findings_and_not_used(node, admin):
    flows(node).write_text(FLOWS + "TO nowhere 1\n")
    page = admin.read("config")
    assert "the files have errors, so the node does not use them" in page.text
    assert "flows.conf:9:4" in page.text
    assert 'href="./config/files/flows.conf#L9"' in page.source
    assert 'id="L9" class="error"' in admin.read("config/files/flows.conf").source


def test_secrets_are_stars_on_every_page_of_the_configuration(node, admin):
    reader = Reader(node, "read")
    before = (node.config / "components.conf").read_text()
    (node.config / "components.conf").write_text(before.replace(SECRET, SECRET + "-new"))
    try:
        for path in ("config", "config/files/components.conf", "config/diff?from=1&to=disk"):
            page = reader.read(path)
            assert page.status == 200, path
            assert "hunter2" not in page.source, path
    finally:
        (node.config / "components.conf").write_text(before)


def test_whoever_may_only_read_sees_no_way_to_edit(node):
    reader = Reader(node, "read")
    assert "config/edit" not in reader.read("config").source
    assert reader.read("config/edit/flows.conf").status == 403


def test_after_saving_each_flow_that_has_changed_leads_to_its_failures(node, admin):
    saved = admin.edit(admin.open(), FLOWS.replace("  AS got", "  TIMEOUT 7s\n  AS got"))
    wait_until(lambda: "The node uses it now" in admin.read("config?saved=flows.conf").text)

    page = admin.read(saved.location.lstrip("./"))

    assert 'failures?flow=2"' in page.source
    assert 'failures?flow=1"' not in page.source


def test_a_saved_text_is_whole_in_force_and_in_the_history_with_its_writer(node, admin):
    flows(node).chmod(0o640)
    text = FLOWS.replace("second", "saved")
    saved = admin.edit(admin.open(), text)
    assert (saved.status, flows(node).read_bytes()) == (303, text.encode())
    assert flows(node).stat().st_mode & 0o777 == 0o640
    wait_in_force(admin)
    assert "token anna: edited flows.conf" in admin.read("config").text
    assert node.get("/v1/flows/2").body["title"] == "saved"


def test_pressing_save_twice_saves_once(node, admin):
    page, text = admin.open(), FLOWS + "\n3 third\nTO component1 1\nGET\n"
    assert admin.edit(page, text).status == 303
    assert admin.edit(page, text).status == 303
    assert flows(node).read_text() == text


def test_a_text_with_errors_is_refused_with_its_findings_and_not_lost(node, admin):
    text = FLOWS + "\n\n5 é <b>\nTO nowhere 1\nGET\n"
    refused = admin.edit(admin.open(), text)
    assert refused.status == 422
    assert "Not saved: the text has errors." in refused.text
    assert "flows.conf:12:4" in refused.text
    assert refused.draft == text
    assert flows(node).read_text() == FLOWS


def test_ends_of_lines_and_a_byte_order_mark_stay_as_they_are(node, admin):
    flows(node).write_bytes(b"\xef\xbb\xbf" + FLOWS.replace("\n", "\r\n").encode())
    page = admin.open()
    assert page.draft == FLOWS
    assert admin.edit(page, FLOWS.replace("second", "other")).status == 303
    changed = FLOWS.replace("second", "other").replace("\n", "\r\n")
    assert flows(node).read_bytes() == b"\xef\xbb\xbf" + changed.encode()


def test_a_file_changed_on_the_disk_meanwhile_is_not_replaced_before_both_were_shown(node, admin):
    page = admin.open()
    flows(node).write_text(FLOWS.replace("second", "from the disk"))
    mine = FLOWS.replace("second", "from the browser")
    refused = admin.edit(page, mine)
    assert refused.status == 409
    assert "flows.conf was changed since you opened it" in refused.text
    assert "-2 from the disk" in refused.text
    assert "+2 from the browser" in refused.text
    assert refused.draft == mine
    assert "from the disk" in flows(node).read_text()
    assert admin.edit(refused, mine).status == 303
    assert flows(node).read_text() == mine


def test_the_second_of_two_browsers_is_refused(node, admin):
    other = Reader(node, "read", "admin")
    first, second = admin.open(), other.open()
    assert admin.edit(first, FLOWS.replace("second", "of the first")).status == 303
    refused = other.edit(second, FLOWS.replace("second", "of the second"))
    assert refused.status == 409
    assert refused.draft == FLOWS.replace("second", "of the second")
    assert "of the first" in flows(node).read_text()


def test_a_draft_whose_session_has_ended_is_shown_again(node, admin):
    page, text = admin.open(), FLOWS + "\n"
    stale = page._replace(source=page.source.replace(page.field("form_token"), "0" * 43))
    refused = admin.edit(stale, text)
    assert refused.status == 403
    assert "the page is from another session" in refused.text
    assert refused.draft == text
    assert admin.edit(refused, text).status == 303


def test_cases_are_run_before_saving_and_a_failed_one_needs_a_second_button(node, admin):
    (node.config / "flows.cases.toml").write_text(CASES.replace("succeeded", "failed"))
    text = FLOWS.replace("second", "with cases")
    refused = admin.edit(admin.open(), text)
    assert refused.status == 422
    assert "1 of 1 failed" in refused.text
    assert "the second flow succeeds" in refused.text
    assert flows(node).read_text() == FLOWS
    (node.config / "flows.cases.toml").write_text(CASES)
    assert "1 passed" in admin.edit(refused, text, do="check").text
    (node.config / "flows.cases.toml").write_text(CASES.replace("succeeded", "failed"))
    assert admin.edit(refused, text, do="save-anyway").status == 303
    assert flows(node).read_text() == text


def test_findings_and_the_picture_of_the_flow_at_the_cursor_come_while_one_types(node, admin):
    page = admin.open()
    beside = admin.edit(page, FLOWS, do="live", line="6")
    assert "<main" not in beside.source
    assert "Picture of flow 2" in beside.source
    wrong = admin.edit(page, FLOWS + "TO nowhere 1\n", do="live", line="1")
    assert "F104" in wrong.source
    assert "Picture of flow 1" in wrong.source
    assert flows(node).read_text() == FLOWS


def test_nothing_is_changed_where_the_configuration_forbids_it(node, admin):
    page, before = admin.open(), (node.config / "comm.conf").read_text()
    node.edit("comm", config__editable=False)
    try:
        wait_in_force(admin)
        assert "config.editable is false" in admin.read("config").text
        opened = admin.open()
        assert "flows.conf cannot be changed here" in opened.text
        assert " readonly" in opened.source
        refused = admin.edit(page, FLOWS + "\n")
        assert refused.status == 403
        assert refused.draft == FLOWS + "\n"
        back = admin.read("config/rollback/1")
        assert admin.send(page, "config/rollback/1", seen="x").status == 403, back.text
        assert flows(node).read_text() == FLOWS
    finally:
        (node.config / "comm.conf").write_text(before)
        wait_in_force(admin)


@pytest.fixture
def disk(node):
    """Mount a small disk over the folder of the configuration."""
    kept = {path.name: path.read_bytes() for path in node.config.iterdir() if path.is_file()}
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(node.config)]
    mounted = subprocess.run(words, capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk cannot be mounted")
    for name, content in kept.items():
        (node.config / name).write_bytes(content)
    yield node.config
    subprocess.run(["umount", "-l", str(node.config)], check=True)


def test_a_folder_that_is_read_only_says_so_before_somebody_types(disk, admin):
    page = admin.open()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    opened = admin.open()
    assert "the user of the node cannot write into the folder" in opened.text
    assert " readonly" in opened.source
    refused = admin.edit(page, FLOWS + "\n")
    assert refused.status == 403
    assert refused.draft == FLOWS + "\n"


def test_a_full_disk_changes_nothing_and_loses_no_draft(disk, node, admin):
    page = admin.open()
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            try:
                ballast.write(b"x" * 4096)
            except OSError:
                break
    text = FLOWS + "# " + "x" * 8192 + "\n"
    refused = admin.edit(page, text)
    assert refused.status == 507
    assert "No space left on device; nothing was changed" in refused.text
    assert refused.draft == text
    assert flows(node).read_text() == FLOWS
    (disk / "ballast").unlink()
    assert admin.edit(refused, text).status == 303


@pytest.mark.parametrize(("content", "reason"), [
    (b"\x00\x01\xff", "is not UTF-8"),
    (b"1 a\x07\nTO component1 1\nGET\n", "line 1 has the character U+0007"),
    (("1 " + "\u202e" + "a\nTO component1 1\nGET\n").encode(), "line 1 has the character U+202E"),
    (b"#" * (1 << 20) + b"\n" + FLOWS.encode(), "flows.conf has more than 1 MiB"),
])  # fmt: skip
def test_a_text_that_a_browser_cannot_keep_is_not_edited_there(node, admin, content, reason):
    flows(node).write_bytes(content)
    opened = admin.open()
    assert reason in opened.text
    assert " readonly" in opened.source
    refused = admin.edit(opened, FLOWS)
    assert refused.status == 403
    assert flows(node).read_bytes() == content


def test_a_draft_that_is_too_long_is_refused_and_nothing_changes(node, admin):
    page = admin.open()
    refused = admin.edit(page, FLOWS + "#" * (1 << 20))
    assert refused.status == 422
    assert "the text has more than 1 MiB" in refused.text
    assert admin.edit(page, "#" * (7 << 20)).status == 413
    assert flows(node).read_text() == FLOWS


def test_the_way_back_says_what_will_change_and_is_in_the_history(node, admin):
    text = FLOWS.replace("second", "soon gone")
    assert admin.edit(admin.open(), text).status == 303
    wait_in_force(admin)
    back = admin.read("config/rollback/1")
    assert "1 file will be written: flows.conf" in back.text
    assert "-2 soon gone" in back.text
    done = admin.send(back, "config/rollback/1", seen=back.field("seen"))
    assert done.status == 303
    assert flows(node).read_text() == FLOWS
    assert "nothing" in admin.read("config/rollback/1").text.lower()
    assert admin.send(back, "config/rollback/1", seen=back.field("seen")).status == 303
    wait_in_force(admin)
    assert "token anna: rollback to 1" in admin.read("config").text


def test_the_way_back_is_refused_where_the_files_are_not_as_shown(node, admin):
    assert admin.edit(admin.open(), FLOWS.replace("second", "seen")).status == 303
    back = admin.read("config/rollback/1")
    flows(node).write_text(FLOWS.replace("second", "not seen"))
    refused = admin.send(back, "config/rollback/1", seen=back.field("seen"))
    assert refused.status == 409
    assert "flows.conf on the disk has changes that the node has not used" in refused.text
    assert "not seen" in flows(node).read_text()


def test_a_configuration_that_is_not_kept_is_not_found(admin):
    assert admin.read("config/rollback/999").status == 404
    assert admin.read("config/diff?from=999").status == 404
    assert admin.read("config/files/passwd").status == 404
    assert admin.read("config/edit/passwd").status == 404


def test_other_files_say_why_they_are_not_edited_here(admin):
    assert admin.read("config/edit/comm.conf").location.endswith("config/files/comm.conf")
    assert "changed on the machine only" in admin.read("config/files/comm.conf").text

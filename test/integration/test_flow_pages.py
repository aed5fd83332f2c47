"""The pages of flows: what flows do, how well, and what happens when they are paused or tried."""

from __future__ import annotations

import html
import re
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from engine_stage import flows
from fractal_rm.domain.node_status import FlowStatus
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import FailureGroup
from fractal_rm.web.pages.flows.flow_steps import failure_label, picture_of, steps_of
from nodes import wait_until
from page_stage import PageStage, page_stage
from visitors import FORM, Visitor, shown_words

FORM_TOKEN = re.compile(r'name="form_token" value="([^"]*)"')
REQUEST = re.compile(r'name="request" value="([^"]*)"')


class Page(NamedTuple):
    status: int
    headers: dict[str, str]
    source: str

    @property
    def text(self) -> str:
        """What a person reads, without the picture."""
        return shown_words(self.source, '<svg class="picture.*?</svg>')

    @property
    def picture(self) -> str:
        """The texts of the picture."""
        [drawn] = re.findall(r"<svg class=\"picture.*?</svg>", self.source, re.DOTALL)
        return " ".join(html.unescape(re.sub("<[^>]*>", " ", drawn)).split())


class Reader:
    """A browser without a picture: reads pages and sends their forms, with a token."""

    def __init__(self, stage: PageStage, *scopes: str, name: str = "anna") -> None:
        self.stage = stage
        self.token = stage.token(*scopes, name=name)
        self.browser = Visitor(stage.node.rest, Authorization=f"Bearer {self.token}")

    def read(self, path: str) -> Page:
        return self._ask("GET", path)

    def send(self, page: Page, path: str, **fields: str) -> Page:
        """Send the form of a page that was read."""
        [token, *_] = FORM_TOKEN.findall(page.source)
        [key] = REQUEST.findall(page.source)
        body = urlencode({"form_token": token, "request": key, **fields})
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: str | None = None) -> Page:
        fields = {} if body is None else {"Content_Type": FORM, "Sec_Fetch_Site": "same-origin"}
        answer = self.browser.ask(method, f"/{path}", body and body.encode(), **fields)
        return Page(answer.status, answer.headers, answer.text)


@pytest.fixture(scope="module")
def reader(broken_line):
    return Reader(broken_line, name="flows-reader")


def test_the_list_has_each_flow_with_its_figures_and_its_last_failure(reader):
    page = reader.read("flows")
    assert page.status == 200
    rows = re.findall(r"<tr><td class=\"first nowrap\">.*?</tr>", page.source, re.DOTALL)
    assert len(rows) == 4
    assert "record the temperature" in rows[0]  # the most failures
    assert "celsius must be a number" in rows[0]
    [night] = [row for row in rows if "report the night" in row]
    assert "CRON" in night


def test_a_step_shows_how_many_runs_are_at_it_and_how_often_it_failed(reader):
    held = reader.read("flows/3")
    assert "POST store reservations" in held.picture
    assert "▶ 2 now" in held.picture
    assert "3 for LIMIT" in held.text

    def counted():  # on a busy machine, a search may be cut: then no number is shown
        page = reader.read("flows/2")
        return page if "failed, 1 h" in page.picture else None

    failing = wait_until(counted)
    [failed] = re.findall(r"✗ (\d+) failed, 1 h", failing.picture)
    assert int(failed) >= 40
    steps = re.findall(r"<details id=\"steps\">.*?</details>", failing.source, re.DOTALL)
    assert f">{failed}</a>" in steps[0]  # the list says the same as the picture


def test_a_step_leads_to_its_component(reader):
    source = reader.read("flows/1").source
    [picture] = re.findall(r"<svg class=\"picture.*?</svg>", source, re.DOTALL)
    assert '<a href="../components/detector">' in picture


def test_a_flow_shows_its_text_with_the_numbers_of_the_lines(reader):
    page = reader.read("flows/2")
    lines = re.findall(r'<td class="n muted">(\d+)</td><td><pre>(.*?)</pre>', page.source)
    assert lines[0] == ("15", "2 record the temperature")
    shown = {number: html.unescape(text) for number, text in lines}
    assert shown["20"] == 'POST JSON {"celsius": shot.temprature, "line": payload.line}'


def test_a_flow_that_does_not_exist_is_said_to_be_missing(reader):
    page = reader.read("flows/77")
    assert page.status == 404
    assert "flows.conf has no flow 77" in page.text


def test_who_may_only_read_sees_no_buttons_and_is_told_what_is_missing(broken_line):
    reader = Reader(broken_line, "read", name="only-reads")
    page = reader.read("flows/1")
    assert "flows/1/pause" not in page.source
    assert 'href="1/try"' not in page.source
    assert "To pause it, sign in with the scope operate" in page.text
    form = reader.read("flows/1/try")
    assert "To start a run, sign in with the scope trigger" in form.text
    assert "<textarea" not in form.source
    assert '"part"' not in form.text  # no payload of another run


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """A node that tests may change."""
    with page_stage(tmp_path_factory.mktemp("flows"), "empty", 0) as stage:
        yield stage


@pytest.fixture(scope="module")
def operator(line):
    return Reader(line)


def test_a_flow_is_paused_and_resumed_after_a_page_that_says_what_will_happen(line, operator):
    question = operator.read("flows/2/pause")
    assert "No run of flow 2 begins" in question.text
    answer = operator.send(question, "flows/2/pause")
    assert (answer.status, answer.headers["location"]) == (303, "../../flows/2?notice=flow-paused")
    again = operator.send(question, "flows/2/pause")  # pressed twice
    assert again.status == 303
    run = line.node.trigger("2", {"line": 1}, ask_balancer=True)[2]["run"]
    page = operator.read("flows/2")
    assert "Paused by token anna" in page.text
    assert "1 run waits" in page.text
    assert "It is paused already, by token anna" in operator.read("flows/2/pause").text
    question = operator.read("flows/2/resume")
    assert "1 run of flow 2 waits now, and begins" in question.text
    operator.send(question, "flows/2/resume")
    wait_until(lambda: line.node.history.run(run).summary.state.final)
    assert "Paused by" not in operator.read("flows/2").text


def test_the_page_that_starts_a_run_says_what_will_happen_and_which_fields_are_used(operator):
    page = operator.read("flows/2/try")
    assert "The flow uses payload.line" in page.text
    assert "It calls store at http://127.0.0.1:" in page.text
    assert "The balancer is asked" in page.text


def test_a_run_is_started_once_by_one_page_and_again_with_another_payload(operator, line):
    page = operator.read("flows/2/try")
    first = operator.send(page, "flows/2/try", payload='{"line": 5}')
    assert first.status == 303
    assert first.headers["location"].endswith("?notice=started")
    run = first.headers["location"].partition("?")[0].rpartition("/")[2]
    twice = operator.send(page, "flows/2/try", payload='{ "line": 5 }')
    assert twice.headers["location"] == f"../../runs/{run}?notice=started-before"
    other = operator.send(page, "flows/2/try", payload='{"line": 6}')
    assert run not in other.headers["location"]
    wait_until(lambda: line.node.history.run(run).summary.state.final)
    summary = line.node.history.run(run).summary
    assert (summary.source, summary.state.value) == ("command", "succeeded")


def test_a_payload_that_is_no_json_starts_nothing_and_is_kept_in_the_form(operator):
    page = operator.send(operator.read("flows/2/try"), "flows/2/try", payload="{line: 5}")
    assert page.status == 422
    assert "Nothing was started. The payload is not JSON" in page.text
    assert "{line: 5}</textarea>" in page.source


def test_a_payload_without_a_field_of_the_flow_starts_a_run_only_if_it_is_confirmed(operator):
    page = operator.send(operator.read("flows/2/try"), "flows/2/try", payload='{"lin": 5}')
    assert page.status == 422
    assert "payload.line : did you mean lin ?" in page.text
    started = operator.send(page, "flows/2/try", payload='{"lin": 5}', anyway="true")
    assert started.status == 303


def test_the_payload_of_an_earlier_run_is_offered_without_characters_that_mislead(operator, line):
    payload = {"line": 7, "name": "a\u202eb\u0085c\U000e0001"}
    run = line.node.trigger("2", payload, ask_balancer=True, Prefer="wait=30")[2]["run"]
    page = operator.read(f"flows/2/try?run={run}")
    [text] = re.findall(r"<textarea[^>]*>(.*?)</textarea>", page.source, re.DOTALL)
    assert "a\\u202eb\\u0085c\\udb40\\udc01" in text
    started = operator.send(page, "flows/2/try", payload=html.unescape(text))
    new = started.headers["location"].partition("?")[0].rpartition("/")[2]
    wait_until(lambda: line.node.history.run(new))
    status, _, body = line.node.request(
        "GET", f"/v1/runs/{new}", Authorization=f"Bearer {operator.token}"
    )
    assert (status, body["facts"][0]["fact"]["payload"]) == (200, payload)


def test_a_payload_that_is_too_large_to_be_shown_is_sent_as_it_is(operator, line):
    payload = {"line": 7, "frame": "x" * 40_000}
    run = line.node.trigger("2", payload, ask_balancer=True, Prefer="wait=30")[2]["run"]
    page = operator.read(f"flows/2/try?run={run}")
    assert "has 40 kB: too many to be shown here" in page.text
    assert "xxxx" not in page.source
    started = operator.send(page, "flows/2/try", run=run)
    new = started.headers["location"].partition("?")[0].rpartition("/")[2]
    wait_until(lambda: line.node.history.run(new))
    assert line.node.history.run(new).facts[0].fact.payload == payload_of(line, run)


def payload_of(line, run):
    return line.node.history.run(run).facts[0].fact.payload


def test_a_flow_that_was_removed_is_shown_while_it_is_paused_and_can_be_resumed(operator, line):
    flows = line.node.config / "flows.conf"
    text = flows.read_text()
    operator.send(operator.read("flows/4/pause"), "flows/4/pause")
    line.node.trigger("4", {}, ask_balancer=True)
    flows.write_text(text.replace("4 report the night", "5 report the night"))
    wait_until(lambda: operator.read("flows/5").status == 200)
    assert "4 not in flows.conf ‖ paused by token anna" in operator.read("flows").text
    resumed = operator.send(operator.read("flows/4/resume"), "flows/4/resume")
    assert resumed.headers["location"] == "../../flows?notice=flow-resumed"
    flows.write_text(text)
    wait_until(lambda: operator.read("flows/4").status == 200)


def test_a_file_with_errors_changes_nothing_on_the_pages_but_a_note(operator, line):
    flows = line.node.config / "flows.conf"
    text = flows.read_text()
    flows.write_text("1 broken\nTO camera nowhere\nGET\n")
    page = operator.read("flows/2")
    assert "an error, so they are not in force: flows.conf line 2" in page.text
    # The text in force is that of the configuration that was applied, and stored a moment later.
    wait_until(lambda: "20 POST JSON" in operator.read("flows/2").text)
    assert operator.read("flows").status == 200
    flows.write_text(text)
    assert "The files on the disk have" not in operator.read("flows/2").text


def test_failures_that_are_not_all_searched_are_not_given_as_a_number():
    flow = flows("1\nTO a 1\nGET\n")["1"]
    group = FailureGroup(State.FAILED, "1", "a", "status", failure_label(flow.steps[0]) + ": x",
                         7, 0, 1, "r", "x")  # fmt: skip
    for is_counted, words in ((True, "7 failed, 1 h"), (False, "failed, not counted yet")):
        steps = steps_of(flow, FlowStatus("1"), {}, [group], is_counted=is_counted)
        picture = str(picture_of(flow, steps, "../"))
        assert words in picture
        assert ("7 failed" in picture) is is_counted

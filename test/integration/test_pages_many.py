"""People see failures and dead letters by kind, and act on all of a kind. Actions are in memory."""

from __future__ import annotations

import asyncio
import html
import re
import sys
import time
from contextlib import ExitStack

import msgspec
import pytest

from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.actions import BulkRequest, Definition, Discard, NotPossible, Replay, Send
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Dead, Discarded, Finished, Placed, Settled, StepFailed
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.domain.tokens import Token, digest_of
from fractal_rm.engine.ports.actions import BulkProgress
from fractal_rm.flowlang import compile_flows
from fractal_rm.web.bulks import Bulk
from fractal_rm.web.pages.actions.bulk_result import left_ms
from operator_stage import operator_stage
from page_forms import form_of, main_of, main_part, read, send
from written_runs import WrittenRun, accepted, run_id, write_runs

NOW_MS = int(time.time() * 1000)
FLOWS = """\
1 press a part
TO press move
POST payload
"""
FLOW = compile_flows(FLOWS, {"press": ("move",)})[0]["1"]
PLACED = Placed("1", "the balancer chose this node", cause=Cause.BALANCER)
NO_FLOW = "There is no such flow: flows.conf has no flow '77'"


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Each test has its own time: pages count the last minutes, and a session takes long."""
    monkeypatch.setattr(sys.modules[__name__], "NOW_MS", int(time.time() * 1000))


def a_failure(number: int, *more, busy: int = 5) -> WrittenRun:
    at_ms, reason = NOW_MS - 600_000 + number * 1_000, f"status 503: busy for {busy} s"
    facts = [
        accepted(FLOW), PLACED, StepFailed(1, 1, reason, final=True, cause=Cause.STATUS),
        Settled(State.FAILED, f"step 1, press move: {reason}", Cause.STATUS), *more,
    ]  # fmt: skip
    return WrittenRun(run_id(number), FLOW, [(at_ms + n, fact) for n, fact in enumerate(facts)])


def a_letter(number: int, body: bytes, cause=Cause.UNKNOWN_FLOW, reason=NO_FLOW) -> WrittenRun:
    letter = Dead(cause.value, reason, "mqtt", body)
    return WrittenRun(run_id(number), None, [(NOW_MS - 60_000 + number, letter)])


@pytest.fixture
def site(tmp_path):
    """Start the pages with runs and dead letters: ``site(run, …)``."""
    with ExitStack() as stack:

        def start(*runs: WrittenRun, flows=None):
            write_runs(tmp_path, runs)
            with TokenFile(tmp_path).changing() as tokens:
                both = [Scope.READ, Scope.PAYLOAD, Scope.OPERATE]
                tokens.append(Token("anna", digest_of("anna"), both, 0))
                few = [Scope.READ, Scope.OPERATE]
                tokens.append(Token("carl", digest_of("carl"), few, 0))
            stage = stack.enter_context(operator_stage(tmp_path, flows))
            stage.actions.runs = {
                run.id: State.DEAD if run.flow is None else State.FAILED for run in runs
            }
            return stage

        yield start


def whole(stage, path: str, early: str = "ack to") -> str:
    """A page whose questions came to their end. On a busy machine, they may end before."""
    for _ in range(50):
        text = read(stage, path)
        if early not in main_part(text):
            return text
    raise AssertionError("the questions did not come to their end")


def with_text(stage, path: str, wanted: str) -> str:
    """A page when a question about many runs has found what is wanted."""
    for _ in range(50):
        text = read(stage, path)
        if wanted in text:
            return text
    raise AssertionError(f"the page never said {wanted}")


def link(text: str, name: str) -> str:
    """The address of the first link with a name."""
    found = re.search(rf'<a [^>]*href="([^"]*)"[^>]*>{re.escape(name)}</a>', main_part(text))
    assert found, f"there is no link {name}"
    address = "/" + html.unescape(found[1]).lstrip("./")
    return address + "&patient=true" if "/bulk/" in address else address


# --- failures by kind -----------------------------------------------------------------------------


def test_the_same_failure_is_one_row_with_its_number_its_times_and_its_cause_in_words(site):
    stage = site(*(a_failure(n, busy=n) for n in range(12)))

    text = whole(stage, "/failures")

    assert text.count("busy for") == 1
    assert "12×" in text
    assert "12 runs of 1 kind need attention" in text
    assert "the answer has a status of 300 or more" in text
    assert run_id(11) in link(text, "Look")


def test_what_was_handled_is_apart_from_what_needs_attention(site):
    stage = site(a_failure(1), a_failure(2, Discarded("root")))

    open_ones, handled = (whole(stage, f"/failures?handled={each}") for each in ("", "true"))

    assert (run_id(1) in open_ones, run_id(2) in open_ones) == (True, False)
    assert (run_id(1) in handled, run_id(2) in handled) == (False, True)
    assert "Discard" not in main_part(handled)


def test_a_page_without_failures_says_so(site):
    assert "no run has failed in this time" in whole(site(), "/failures?flow=1&since=1h")


def test_the_links_of_a_group_mean_its_runs(site):
    stage = site(*(a_failure(n) for n in range(1, 4)))
    text = whole(stage, "/failures")

    assert whole(stage, link(text, "All runs"), "searched back").count("busy for 5 s") >= 3
    assert "Replay 3 runs" in whole(stage, link(text, "Replay"))
    assert "Discard 3 runs" in whole(stage, link(text, "Discard"))


# --- many runs ------------------------------------------------------------------------------------


def test_all_runs_of_a_kind_are_repeated_after_their_number_was_shown(site):
    stage = site(*(a_failure(n) for n in range(1, 4)))
    path = link(whole(stage, "/failures"), "Replay")
    text = whole(stage, path, "counted by kind")
    assert "Each run is replayed as a new run with the same payload" in text
    assert "3×" in text

    begun = send(stage, form_of(stage, path), definition="current")

    (bulk,) = stage.bulks.newest_first()
    assert begun.headers["location"] == f"./bulk/{bulk.id}?notice=many-begun"
    asyncio.run_coroutine_threadsafe(_ended(bulk), stage.loop).result(20)
    assert [request.action for request in stage.actions.requests] == [
        Replay(run_id(n), Replay("").definition.CURRENT) for n in range(1, 4)
    ]
    text = read(stage, f"/bulk/{bulk.id}")
    assert "All were replayed." in text
    assert "Replay 3 runs" in read(stage, "/bulk")


TWO_STEPS = "1 record\nTO camera read\nGET\n  AS shot\nTO store put\nPOST JSON {}\n"
_NAMES = {"camera": ("read",), "store": ("put",)}
MISSPELT = compile_flows(TWO_STEPS.replace("{}", "shot.temprature"), _NAMES)[0]["1"]
MENDED = compile_flows(TWO_STEPS.replace("{}", "shot.temperature"), _NAMES)[0]["1"]


def a_misspelt(number: int) -> WrittenRun:
    reason = "shot.temprature is null"
    facts = [
        accepted(MISSPELT), PLACED,
        Finished(1, 200, 8.0, msgspec.Raw(b'"{\\"temperature\\": 20.5}"')),
        StepFailed(2, 1, "status 422: celsius must be a number", final=True, cause=Cause.STATUS),
        Settled(State.FAILED, f"step 2, store put: {reason}", Cause.STATUS),
    ]  # fmt: skip
    at_ms = NOW_MS - 600_000 + number * 1_000
    return WrittenRun(run_id(number), MISSPELT, [(at_ms + n, f) for n, f in enumerate(facts)])


def test_runs_of_a_flow_that_was_mended_are_replayed_with_it_from_the_step_that_failed(site):
    stage = site(*(a_misspelt(n) for n in range(1, 4)), flows={"1": MENDED})
    path = link(whole(stage, "/failures"), "Replay")

    text = html.unescape(main_part(read(stage, path)))
    form = form_of(stage, path)
    send(stage, form, from_step="2")

    assert "The flow has changed since these runs began." in text
    assert form.fields["definition"] == "current"
    assert "the first step: it calls camera and store" in text
    assert re.search(r'<option value="2" selected>step 2: .* earlier results: it calls store', text)
    (bulk,) = stage.bulks.newest_first()
    assert bulk.request.action == Replay("", Definition.CURRENT, 2)


def test_runs_whose_flow_is_as_it_was_are_replayed_with_it(site):
    stage = site(*(a_failure(n) for n in range(1, 4)), flows={"1": FLOW})
    path = link(whole(stage, "/failures"), "Replay")

    text = read(stage, path)

    assert form_of(stage, path).fields["definition"] == "recorded"
    assert "has changed since" not in text
    assert "A run of flow 1 calls press." in text
    assert "Begin with" not in text


async def _ended(bulk) -> None:
    await bulk.task


def a_repeat(number: int, *ends) -> WrittenRun:
    first = msgspec.structs.replace(accepted(FLOW), source="replay")
    facts, at_ms = [first, PLACED, *ends], NOW_MS - 100_000
    return WrittenRun(run_id(number), FLOW, [(at_ms + n, fact) for n, fact in enumerate(facts)])


def test_the_page_of_a_replay_says_how_the_new_runs_ended_and_links_to_them(site):
    good, bad = Settled(State.SUCCEEDED), Settled(State.FAILED, "step 1: busy", Cause.STATUS)
    stage = site(
        *(a_failure(n) for n in range(1, 4)),
        a_repeat(11, good), a_repeat(12, good), a_repeat(13, bad), a_repeat(14),
    )  # fmt: skip
    form = form_of(stage, link(whole(stage, "/failures"), "Replay"))
    begun = send(stage, form, expect="7")  # the actions in memory mean every run
    (bulk,) = stage.bulks.newest_first()
    asyncio.run_coroutine_threadsafe(_ended(bulk), stage.loop).result(20)
    bulk.begun_ms = NOW_MS - 110_000  # before the new runs, which were written

    path = "/" + begun.headers["location"].lstrip("./").partition("?")[0]
    text = with_text(stage, path, "<dt>in trouble</dt>")
    counted = {
        name: (number, html.unescape(query))
        for name, query, number in re.findall(
            r'<dt>([a-z ]+)</dt><dd[^>]*><a href="[./]*(runs\?[^"]*)">([^<]*)</a>', main_part(text)
        )
    }

    assert {name: number for name, (number, _) in counted.items()} == {
        "succeeded": "2", "in trouble": "1", "open": "1",
    }  # fmt: skip
    assert run_id(13) in whole(stage, "/" + counted["in trouble"][1], "searched back")
    assert 'data-every="2"' in text


def test_the_rest_of_an_action_is_estimated_from_the_speed_that_was_measured():
    bulk = Bulk("1", BulkRequest(Replay(""), RunFilter(flow="1"), 231, "anna", "x"), 1_000)
    assert left_ms(bulk, 9_000) is None

    bulk.progress = BulkProgress(231, 30, 1)

    assert left_ms(bulk, 1_000 + 31 * 700) == 200 * 700
    bulk.ended_ms = 30_000
    assert left_ms(bulk, 40_000) is None


def test_a_form_on_many_runs_that_is_sent_twice_begins_once(site):
    stage = site(*(a_failure(n) for n in range(1, 4)))
    form = form_of(stage, link(whole(stage, "/failures"), "Discard"))

    first, second = (send(stage, form, note="known") for _ in range(2))

    assert first.headers["location"] == second.headers["location"]
    (bulk,) = stage.bulks.newest_first()
    assert bulk.request.action == Discard("", "known")


@pytest.mark.parametrize("query", ["", "&handled=false", "&until=1s", "&dead_letters=true"])
def test_an_empty_filter_never_means_all(site, query):
    stage = site(a_failure(1))

    text = read(stage, f"/bulk/new?action=discard{query}", status=422)

    assert "every run of the node would be meant" in text
    assert "<form" not in main_part(text)


def test_a_form_without_conditions_is_refused(site):
    stage = site(a_failure(1))
    form = form_of(stage, "/bulk/new?action=discard&state=failed&patient=true")
    for name in ("state", "since"):
        form.fields.pop(name, None)

    answer = send(stage, form)

    assert answer.status == NotPossible.status
    assert stage.bulks.newest_first() == []


def test_more_runs_than_the_page_has_shown_are_refused_with_the_number_now(site):
    stage = site(*(a_failure(n) for n in range(1, 4)))
    form = form_of(stage, "/bulk/new?action=discard&state=failed&patient=true")
    stage.actions.runs |= {run_id(90 + n): State.FAILED for n in range(5)}

    answer = send(stage, form)

    assert answer.status == 409
    assert "8 runs match, and 3 were expected" in main_of(answer)


def test_an_action_on_many_runs_can_be_stopped_on_its_page(site):
    stage = site(*(a_failure(n) for n in range(1, 4)))
    held = asyncio.Event()
    act = stage.actions.act

    async def wait(request):
        await held.wait()
        return await act(request)

    stage.actions.act = wait
    begun = send(stage, form_of(stage, "/bulk/new?action=discard&state=failed&patient=true"))
    path = "/" + begun.headers["location"].lstrip("./").partition("?")[0]
    form = form_of(stage, path)
    assert 'data-every="1"' in read(stage, path)
    stage.loop.call_soon_threadsafe(stage.loop.call_later, 0.1, held.set)

    stopped = send(stage, form)

    assert stopped.headers["location"].endswith("notice=stopped")
    text = read(stage, path)
    assert 'data-every=""' in text
    assert "What was done stays done." in text


# --- dead letters ---------------------------------------------------------------------------------


def test_dead_letters_are_gathered_by_kind_and_listed(site):
    stage = site(*(a_letter(n, b'{"id_flow": "77"}') for n in range(1, 4)))

    text = whole(stage, "/dead")

    assert "3×" in text
    assert "flows.conf has no flow with this id" in text
    assert all(run_id(n) in text for n in range(1, 4))
    assert "Send 3 dead letters" in whole(stage, link(text, "Send all"))


def test_a_message_that_would_be_refused_again_is_not_offered_to_be_sent_as_it_is(site):
    stage = site(a_letter(1, b"{", Cause.MALFORMED, "The message is not valid JSON: it ends"))

    assert "Send all" not in whole(stage, "/dead")
    assert "Send again" not in read(stage, f"/dead/{run_id(1)}")


def test_a_dead_letter_shows_what_arrived_and_why_it_was_refused(site):
    letters = [a_letter(n, b'{"id_flow": "77", "payload": "<b>"}') for n in range(1, 3)]
    stage = site(*letters)

    text = with_text(stage, f"/dead/{run_id(1)}", "of the same kind")

    assert "{&#34;id_flow&#34;: &#34;77&#34;, &#34;payload&#34;: &#34;&lt;b&gt;&#34;}" in text
    assert "arrived" in text
    assert NO_FLOW[:20] in html.unescape(text)
    assert "2 of the same kind" in text
    assert run_id(2) in text


def test_a_long_message_is_cut_on_the_page_and_whole_in_its_file(site):
    body = b'{"id_flow": "77", "payload": "' + b"x" * 30_000 + b'"}'
    stage = site(a_letter(1, body))

    text = read(stage, f"/dead/{run_id(1)}")
    file = stage.ask("GET", f"/dead/{run_id(1)}/message", token="anna")

    assert len(text) < 20_000
    assert file.body == body
    assert file.headers["content-disposition"].startswith("attachment")


def test_the_message_needs_the_scope_payload(site):
    stage = site(a_letter(1, b'{"id_flow": "77", "secret": 5}'))

    for path in (f"/dead/{run_id(1)}", f"/dead/{run_id(1)}/edit"):
        assert "secret" not in read(stage, path, token="carl")
    assert stage.ask("GET", f"/dead/{run_id(1)}/message", token="carl").status == 403


def test_an_edited_message_is_checked_and_kept_until_it_can_be_sent(site):
    stage = site(a_letter(1, b'{"id_flow": "77", "payload": {}}'))
    form = form_of(stage, f"/dead/{run_id(1)}/edit")
    assert form.fields["message"] == '{"id_flow": "77", "payload": {}}'

    wrong = send(stage, form, message='{"id_flow": "1",')
    checked = send(stage, form, message='{"id_flow": "1", "payload": {}}', check="true")
    sent = send(stage, form, message='{"id_flow": "1", "payload": {}}')

    assert (wrong.status, checked.status, sent.status) == (422, 200, 303)
    assert "The message is not valid JSON" in main_of(wrong)
    assert '{"id_flow": "1",' in main_of(wrong)
    assert "It would be accepted" in main_of(checked)
    (request,) = stage.actions.requests
    assert request.action == Send(run_id(1), b'{"id_flow": "1", "payload": {}}')
    assert sent.headers["location"].endswith("?notice=sent")


def test_characters_that_nobody_can_see_are_edited_as_json_writes_them(site):
    body = '{"id_flow": "77", "payload": "a\u202eb\x85\U000e0001"}'
    stage = site(a_letter(1, body.encode()))

    form = form_of(stage, f"/dead/{run_id(1)}/edit")

    assert form.fields["message"] == r'{"id_flow": "77", "payload": "a\u202eb\u0085\udb40\udc01"}'


def test_a_dead_letter_that_is_sent_as_it_is_becomes_a_run(site):
    stage = site(a_letter(1, b'{"id_flow": "77", "payload": {}}'))

    sent = send(stage, form_of(stage, f"/dead/{run_id(1)}/send"))

    new_run = stage.actions.handled[run_id(1)]
    assert sent.headers["location"] == f"../../runs/{new_run}?notice=sent"

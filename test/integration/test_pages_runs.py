"""The pages of runs: find a run, and understand what happened to it."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

import msgspec
import pytest

from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope
from fractal_rm.domain.facts import Finished
from fractal_rm.domain.flow import Keep, KeepSettings
from fractal_rm.domain.tokens import Token, digest_of
from operator_stage import operator_stage
from written_runs import (
    FLOW,
    PLACED,
    WrittenRun,
    a_failure,
    a_success,
    accepted,
    run_id,
    write_runs,
)

NOW_MS = int(time.time() * 1000)


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Each test has its own time: pages count the last minutes, and a session takes long."""
    monkeypatch.setattr(sys.modules[__name__], "NOW_MS", int(time.time() * 1000))


@pytest.fixture
def site(tmp_path):
    """Start the pages with runs: ``site(run, …)``."""
    with ExitStack() as stack:

        def start(*runs: WrittenRun):
            write_runs(tmp_path, runs)
            return stack.enter_context(operator_stage(tmp_path))

        yield start


def listed(stage, query: str = "") -> str:
    """The list of runs. On a busy machine, a search may end before it has found all runs."""
    for _ in range(50):
        text = page(stage, f"/runs?{query}")
        if "searched back" not in text:
            return text
    raise AssertionError("the search did not come to its end")


def page(stage, path: str, token: str = "read", status: int = 200) -> str:
    answer = stage.ask("GET", path, token=token)
    assert answer.status == status, answer.body
    return answer.body.decode()


def test_the_list_shows_the_newest_runs_and_how_many_there_are(site):
    stage = site(a_success(1, NOW_MS - 5_000), a_failure(2, NOW_MS - 3_000))

    text = listed(stage)

    assert text.index(run_id(2)) < text.index(run_id(1))
    assert "2 of 2 runs" in text
    assert "status 503: busy" in text


def test_a_list_longer_than_a_page_is_read_part_by_part_in_both_directions(site):
    stage = site(*(a_success(n, NOW_MS - 10_000 + n) for n in range(120)))

    def follow(text: str, name: str) -> str:
        link = text.partition(name)[0].rpartition('href="./runs')[2].partition('"')[0]
        return page(stage, "/runs" + link.replace("&amp;", "&"))

    first = listed(stage)
    second = follow(first, "Older ›")
    third = follow(second, "Older ›")

    assert [run_id(n) in first for n in (119, 70, 69)] == [True, True, False]
    assert [run_id(n) in second for n in (70, 69, 20)] == [False, True, True]
    assert run_id(0) in third
    assert "Older" not in third
    assert run_id(69) in follow(third, "‹ Newer")
    assert run_id(119) in follow(follow(third, "‹ Newer"), "‹ Newer")


def test_conditions_of_the_form_choose_runs(site):
    stage = site(a_success(1, NOW_MS - 7_200_000), a_failure(2, NOW_MS - 3_000))

    def shown(query: str) -> list[int]:
        text = listed(stage, query)
        return [n for n in (1, 2) if f'title="{run_id(n)}"' in text]

    assert shown("flow=&state=trouble&since=&text=") == [2]
    assert shown("state=ended") == [1, 2]
    assert shown("since=1h") == [2]
    assert shown("slower=1s") == [2]
    assert shown("text=BUSY&component=press&cause=status&handled=false") == [2]
    assert shown("until=1h") == [1]
    assert shown("state=open") == []


def test_a_time_without_a_zone_is_in_the_zone_of_the_page(site):
    stage = site(a_success(1, 1_796_000_400_000))  # 2026-11-30 01:00 UTC

    assert run_id(1) in listed(stage, "from=2026-11-30T00:59&until=2026-11-30T01:01")
    assert run_id(1) not in listed(stage, "from=2026-11-30T01:01")


def test_an_empty_list_says_what_was_searched(site):
    text = listed(site(), "flow=2&state=trouble&text=busy")

    assert "No runs in trouble of flow 2 in trouble whose reason contains &#34;busy&#34;." in text


def test_failures_are_shown_although_successes_fill_the_page(site):
    stage = site(a_failure(0, NOW_MS - 60_000), *(a_success(n, NOW_MS + n) for n in range(1, 60)))

    def troubles() -> str:
        text = page(stage, "/runs")
        return text.partition("Newest in trouble")[2].partition("All in trouble")[0]

    # The search has little time: on a busy machine, the page needs it again.
    assert any(run_id(0) in troubles() for _ in range(50))


def test_a_run_id_in_the_search_field_opens_the_run(site):
    stage = site(a_success(1, NOW_MS))

    answer = stage.ask("GET", f"/runs?text={run_id(1)}", token="read")

    assert (answer.status, answer.headers["location"]) == (303, f"./runs/{run_id(1)}")


def test_a_condition_that_is_not_known_is_refused_with_what_there_is(site):
    stage = site()

    assert "there is no &#39;broken&#39;" in page(stage, "/runs?state=broken", status=400)
    assert "there is no such parameter" in page(stage, "/runs?colour=red", status=400)
    assert "a length of time such as" in page(stage, "/runs?slower=long", status=400)


def test_the_page_of_a_failed_run_says_why_and_shows_every_attempt(site):
    text = page(site(a_failure(1, NOW_MS - 5_000)), f"/runs/{run_id(1)}")

    assert "Both attempts failed: this is the last failure." in text
    assert "attempt 1 failed after 90 ms: status 503: busy" in text
    assert "a pause of 1 s before attempt 2" in text
    assert "attempt 2 failed after 100 ms" in text
    assert "the balancer, when the turn of the run came: 2 ms after its acceptance" in text
    assert "it began 0 ms after the answer" in text


def test_values_are_shown_only_with_the_scope_payload(site):
    stage = site(a_success(1, NOW_MS, payload=b'{"secret":"tea"}'))
    path = f"/runs/{run_id(1)}"

    assert "tea" not in page(stage, path)
    assert "has the scope <code>payload</code>" in page(stage, path)
    assert stage.ask("GET", f"{path}/values/payload", token="read").status == 403


@pytest.fixture
def all_scopes(tmp_path):
    """The text of a token with all scopes."""
    with TokenFile(tmp_path).changing() as tokens:
        tokens.append(Token("all", digest_of("all"), list(Scope), 0))
    return "all"


def test_a_large_value_is_cut_on_the_page_and_whole_as_a_file(site, all_scopes):
    large = b'{"text":"' + b"x" * 9_000 + b'","end":1}'
    stage = site(a_success(1, NOW_MS, payload=large))

    text = page(stage, f"/runs/{run_id(1)}", all_scopes)
    assert "Download the whole value" in text
    assert "x" * 4_097 not in text

    answer = stage.ask("GET", f"/runs/{run_id(1)}/values/payload", token=all_scopes)
    assert answer.body == msgspec.json.decode(large)
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["x-content-type-options"] == "nosniff"
    page(stage, f"/runs/{run_id(1)}/values/result-9", all_scopes, status=404)


def test_all_facts_are_a_file_and_its_values_need_the_scope_payload(site, all_scopes):
    stage = site(a_success(1, NOW_MS, payload=b'{"secret":"tea"}'))

    hidden = stage.ask("GET", f"/runs/{run_id(1)}/facts", token="read").body
    whole = stage.ask("GET", f"/runs/{run_id(1)}/facts", token=all_scopes).body

    assert len(hidden.splitlines()) == len(whole.splitlines()) == 5
    assert b"tea" in whole
    assert b"tea" not in hidden


def test_a_case_is_made_by_the_node_or_refused_with_the_reason(site, all_scopes):
    stage = site(a_success(1, NOW_MS))

    text = page(stage, f"/runs/{run_id(1)}/case", all_scopes, status=409)

    assert "this node makes no cases" in text
    assert stage.ask("GET", f"/runs/{run_id(1)}/case", token="read").status == 403


def test_a_paused_list_is_told_how_many_runs_are_new(site):
    stage = site(*(a_success(n, NOW_MS + n) for n in range(10)))

    def news(number: int) -> str:
        return page(stage, f"/runs/new?since=1h&after={run_id(number)}")

    # The search has little time: on a busy machine, the page asks again.
    assert any('href="../runs?since=1h">3 new</a>' in news(6) for _ in range(50))
    assert "href" not in news(9)


def test_values_that_a_flow_masks_are_not_shown(site, all_scopes):
    flow = msgspec.structs.replace(FLOW, keeping=KeepSettings(Keep.ALL, ("pin",)))
    stage = site(a_success(1, NOW_MS, flow, b'{"pin":"4711","part":7}'))

    text = page(stage, f"/runs/{run_id(1)}", all_scopes)
    answer = stage.ask("GET", f"/runs/{run_id(1)}/values/payload", token=all_scopes)

    assert "4711" not in text
    assert "fields are masked" in text
    assert answer.body == {"pin": "*****", "part": 7}


def test_a_run_that_is_not_there_is_a_page_with_404(site):
    assert "no run NONE is in the journals" in page(site(), "/runs/NONE", status=404)


def test_a_result_of_megabytes_is_shown_by_its_beginning_and_is_a_file_as_a_whole(site, all_scopes):
    content = 'é"\\' * 1_000_000
    result = Finished(1, 200, 8.0, msgspec.Raw(msgspec.json.encode(content)))
    facts = [(NOW_MS, accepted(FLOW)), (NOW_MS + 1, PLACED), (NOW_MS + 20, result)]
    stage = site(WrittenRun(run_id(1), FLOW, facts))

    text = page(stage, f"/runs/{run_id(1)}", all_scopes)
    whole = stage.ask("GET", f"/runs/{run_id(1)}/values/result-1", token=all_scopes).body

    assert len(text) < 60_000
    assert "6,000 kB" in text
    assert whole.decode() == content


def test_a_large_payload_with_masked_fields_is_masked_in_its_beginning_and_in_the_file(
    site, all_scopes
):
    flow = msgspec.structs.replace(FLOW, keeping=KeepSettings(Keep.ALL, ("pin",)))
    payload = b'{"pin":"4711","fill":"' + b"x" * 100_000 + b'"}'
    facts = [(NOW_MS, accepted(flow, payload)), (NOW_MS + 1, PLACED)]
    stage = site(WrittenRun(run_id(1), flow, facts))

    text = page(stage, f"/runs/{run_id(1)}", all_scopes)
    whole = stage.ask("GET", f"/runs/{run_id(1)}/values/payload", token=all_scopes).body

    assert "4711" not in text + str(whole)
    assert "*****" in text
    assert (whole["pin"], len(whole["fill"])) == ("*****", 100_000)

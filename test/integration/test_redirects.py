"""No call follows a redirect. The reason of the failure names the target of the redirect."""

from __future__ import annotations

import json

import pytest

from engine_stage import Stage, flows
from fractal_rm.domain.state import State


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308, 399])
async def test_a_redirect_fails_the_step_without_a_retry(status):
    async with Stage(flows=flows("1\nTO a 1\nPOST payload\n  RETRY 3\nTO b 1\nGET\n")) as stage:
        stage.set_answer("a/1", "see  there", status, Location="http://10.0.0.7:8080/a/1/")
        outcome = await stage.run()
        assert outcome.state is State.FAILED
        assert outcome.reason == (
            f"step 1, a 1: status {status}, pointing to http://10.0.0.7:8080/a/1/: see there"
        )
        assert stage.called_endpoints() == ["a/1"]


async def test_the_target_of_a_redirect_is_percent_encoded():
    async with Stage(flows=flows("1\nTO a 1\nPOST payload\n")) as stage:
        stage.set_answer("a/1", "", 301, Location="/Stra\u00dfe\t1 2/")  # not percent-encoded
        assert (await stage.run()).reason.endswith("pointing to /Stra%C3%9Fe%091%202/")


@pytest.mark.parametrize(
    ("expect", "state"),
    [
        ("308", State.SUCCEEDED),
        ("status(result1) in [200, 308]", State.SUCCEEDED),
        ("result1 != null", State.FAILED),
        ("307", State.FAILED),
    ],
)
async def test_a_call_with_a_redirect_succeeds_if_the_modifier_expect_allows_the_status(
    expect, state
):
    async with Stage(flows=flows(f"1\nTO a 1\nPOST payload\n  EXPECT {expect}\n")) as stage:
        stage.set_answer("a/1", "", 308, Location="/a/1/")
        outcome = await stage.run()
        assert outcome.state is state
        assert (", pointing to /a/1/" in outcome.reason) == (state is State.FAILED)


async def test_the_body_of_a_redirect_is_the_result_with_the_setting_errors_continue():
    text = "1\nERRORS continue\nTO a 1\nGET\nTO b 1\nPOST result1\n"
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/1", "moved", 302, Location="/b")
        assert (await stage.run()).state is State.SUCCEEDED
        assert json.loads(stage.components.requests[1].body) == {"payload": ["moved"]}


async def test_the_reason_names_an_undo_that_was_redirected():
    text = "1\nTO a 1\nGET\n  UNDO 2\nTO b 1\nGET\n  EXPECT 201\n"
    async with Stage(flows=flows(text)) as stage:
        stage.set_answer("a/2", "", 307, Location="/a/2/")
        assert "undo of step 1, a 2: status 307, pointing to /a/2/" in (await stage.run()).reason


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"caf\xe9", "text/plain; charset=iso-8859-1", "status 500: café"),
        (b"\xff\xd8\xff", "image/jpeg", "status 500: 3 bytes"),
    ],
)
async def test_a_reason_quotes_a_body_only_if_the_body_is_text(body, content_type, reason):
    async with Stage(flows=flows("1\nTO a 1\nGET\n")) as stage:
        stage.set_answer("a/1", body, 500, Content_Type=content_type)
        assert (await stage.run()).reason == f"step 1, a 1: {reason}"

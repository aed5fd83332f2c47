"""Cases of flows: mocked replies, expectations, and findings about invalid files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cases import differences
from engine_stage import config, flows
from fractal_rm.cases.read import read_cases
from fractal_rm.cases.run import read_text, run_case, select_cases
from fractal_rm.domain.findings import ConfigRejected

DOCS = Path(__file__).parents[2] / "docs"
FLOWS = """\
1 plain
TO a 1
POST payload
TO b 1
POST result1

2 with options
DEADLINE 1m
TO a 1
GET
  AS first
  RETRY 2 EVERY 1s
  QUERY model "small"
  HEADER X-Line payload.line
TO b 1
POST JSON {"n": first.n}
  WHEN first.n > 1

3 continues
ERRORS continue
TO a 1
GET
TO b 1
POST result1

4 once
TO once 1
GET
"""


@pytest.fixture(scope="module")
def configuration():
    return config(flows=flows(FLOWS))


def passes(configuration, text: str) -> bool:
    return differences(configuration, text) == []


REPLY = "\n[[case.reply]]\njson = { n = 2 }\n"


# --- replies ----------------------------------------------------------------------------------


def test_a_case_needs_only_a_flow_and_a_reply(configuration):
    assert passes(configuration, f"flow = 1{REPLY}")


def test_a_call_without_a_reply_is_a_difference(configuration):
    subject, _, actual = differences(configuration, "flow = 1")[0]
    assert subject == "POST to a 1 (call 1 of flow 1)"
    assert actual == "no reply fits: add a [[case.reply]]"


def test_replies_to_one_call_are_given_in_order_and_the_last_one_is_repeated(configuration):
    text = """flow = 2
    payload = { line = 7 }
    [[case.reply]]
    call = 1
    status = 503
    [[case.reply]]
    call = 1
    json = { n = 1 }
    [case.expect]
    skipped = [2]
    took = "750ms"
    [[case.expect.call]]
    to = "a 1"
    query = { model = "small" }
    headers = { X-Line = 7 }
    [[case.expect.call]]
    to = "a 1"
    """
    assert passes(configuration, text)


def test_the_most_specific_reply_is_used(configuration):
    text = """flow = 1
    [[case.reply]]
    text = "any"
    [[case.reply]]
    to = "b"
    text = "of b"
    [[case.reply]]
    call = 1
    text = "of call 1"
    [case.expect]
    results = { 1 = "of call 1", 2 = "of b" }
    reply = "of b"
    """
    assert passes(configuration, text)


@pytest.mark.parametrize(
    ("fault", "duration", "reason"),
    [
        ("refused", "300ms", "connection refused"),
        ("timeout", "30s", "no answer within the time limit"),
        ("broken", "0ms", "the connection was closed before the answer was complete"),
    ],
)
def test_a_fault_is_handled_like_the_fault_of_a_real_component(
    configuration, fault, duration, reason
):
    text = f"""flow = 1
    [[case.reply]]
    fault = "{fault}"
    [case.expect]
    state = "failed"
    reason = "{reason}"
    took = "{duration}"
    """
    assert passes(configuration, text)


def test_a_delay_over_the_limit_of_the_component_is_a_timeout(configuration):
    text = """flow = 1
    [[case.reply]]
    delay = "31s"
    [case.expect]
    state = "failed"
    reason = "no answer within the time limit"
    took = "30s"
    """
    assert passes(configuration, text)


def test_delays_pass_in_virtual_time(configuration):
    text = """flow = 3
    [[case.reply]]
    call = 1
    fault = "timeout"
    [[case.reply]]
    call = 2
    delay = "20s"
    [case.expect]
    took = "50s"
    """
    assert passes(configuration, text)


def test_a_run_can_be_handed_off(configuration):
    text = """flow = 1
    balancer = { node = 3, delay = "20ms" }
    [case.expect]
    state = "handed-off"
    node = 3
    call = []
    took = "20ms"
    """
    assert passes(configuration, text)


def test_a_run_that_a_node_refuses_is_executed_locally(configuration):
    text = f"""flow = 1
    balancer = {{ node = 2 }}
    {REPLY}
    [[case.peer]]
    status = 404
    [case.expect]
    reason = "node 2 answered 404"
    """
    assert passes(configuration, text)


def test_a_run_is_executed_locally_if_the_balancer_fails(configuration):
    text = f"""flow = 1
    balancer = {{ fault = "refused" }}
    {REPLY}
    [case.expect]
    reason = "the balancer failed"
    """
    assert passes(configuration, text)


def test_a_run_that_does_not_end_is_watched_for_the_watch_time_of_the_case(configuration):
    text = """flow = 1
    watch = "2m"
    balancer = { node = 3 }
    [[case.peer]]
    fault = "timeout"
    [case.expect]
    state = "offered"
    """
    assert passes(configuration, text)


# --- expectations -----------------------------------------------------------------------------


def test_each_difference_has_the_expected_and_the_actual_value(configuration):
    text = f"""flow = 2
    payload = {{ line = 7 }}
    {REPLY}
    [case.expect]
    state = "failed"
    reason = "broken"
    node = 2
    took = "1s"
    reply = "other"
    results = {{ first = {{ n = 3 }} }}
    skipped = [1]
    publish = [{{ topic = "t" }}]
    [[case.expect.call]]
    to = "a 1"
    query = {{ model = "large", other = 1 }}
    headers = {{ X-Line = 8, X-None = "" }}
    [[case.expect.call]]
    to = "b 1"
    method = "POST"
    json = {{ n = 3, a = 1 }}
    [[case.expect.call]]
    to = "b 2"
    """
    placement_reason = "the balancer chose this node"
    assert differences(configuration, text) == [
        ("request 1, X-Line", "8", "7"),
        ("request 1, X-None", "", "no such header"),
        ("request 1, ?model", "large", "small"),
        ("request 1, ?other", "1", "no such parameter"),
        ("request 2, body", '{"a":1,"n":3}', '{"n":2}'),
        ("request 3", "request to b 2", "no such request"),
        ("message 1", "t", "no such message"),
        ("state", "failed", f"succeeded: {placement_reason}"),
        ("reason", "… broken …", placement_reason),
        ("node", "2", "this node"),
        ("took", "1s", "0ms"),
        ("result1", '{"n":3}', '{"n":2}'),
        ("call 1", "skipped", "the call was made or not reached"),
        ("reply", "other", '{"n":2}'),
    ]


def test_an_unexpected_request_is_a_difference(configuration):
    text = f"flow = 1{REPLY}[case.expect]\ncall = []"
    assert [actual for _, _, actual in differences(configuration, text)] == [
        "POST to a 1 (call 1 of flow 1)", "POST to b 1 (call 2 of flow 1)",
    ]  # fmt: skip


def test_a_request_that_differs_in_its_target_is_one_difference(configuration):
    text = (
        f'flow = 1{REPLY}[case.expect]\ncall = [{{ to = "b 1", method = "GET" }}, {{ call = 2 }}]'
    )
    assert differences(configuration, text) == [
        ("request 1", "GET to b 1", "POST to a 1 (call 1 of flow 1)")
    ]


def test_json_is_compared_by_value_but_text_is_compared_byte_for_byte(configuration):
    body = "[case.expect]\n[[case.expect.call]]\n%s\n[[case.expect.call]]\n"
    lead = f"flow = 1\npayload = {{ a = 1, b = true }}{REPLY}"
    assert passes(configuration, lead + body % "json = { payload = [{ b = true, a = 1.0 }] }")
    assert not passes(configuration, lead + body % "json = { payload = [{ b = 1, a = 1 }] }")
    assert passes(configuration, lead + body % """text = '{"payload": [{"a":1,"b":true}]}'""")
    assert not passes(configuration, lead + body % """text = '{"payload":[{"a":1,"b":true}]}'""")


def test_a_case_can_expect_the_id_of_the_run(configuration):
    text = f"""flow = 1{REPLY}
    [[case.expect.call]]
    headers = {{ Idempotency-Key = "<run>:1" }}
    [[case.expect.call]]
    headers = {{ idempotency-key = "<run>:2" }}
    """
    assert passes(configuration, text)


def test_a_refused_trigger_is_a_difference(configuration):
    text = f'flow = 1\nkey = ""{REPLY}'
    ((subject, _, actual),) = differences(configuration, text)
    assert (subject, actual[:21]) == ("trigger", "refused [wrong-shape]")


def test_a_payload_with_null_can_be_given_as_json_text(configuration):
    text = f"""flow = 1
    payload_json = '{{"a": null}}'
    {REPLY}
    [case.expect]
    call = [{{ text = '{{"payload": [{{"a": null}}]}}' }}, {{}}]
    """
    assert passes(configuration, text)


# --- findings ---------------------------------------------------------------------------------


def findings(configuration, text: str) -> list[str]:
    with pytest.raises(ConfigRejected) as rejected:
        read_cases(text, configuration)
    return [
        f"{each.place.line} {each.code} {each.text}" + (f" ({each.help})" if each.help else "")
        for each in rejected.value.findings
    ]


HEAD = '[[case]]\nname = "it"\nflow = 1\n'
NOT_JSON = "4 C205 payload has a value that JSON cannot represent"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("[[case]\n", "1 T301 this is not TOML"),
        ('[[case]]\nname = "it\n', "2 T301 this is not TOML"),
        ("x = " + "[" * 3000, "T301"),
        ("[[case]]\nflow = 1\n", "1 C204 name is missing"),
        ('[[case]]\nname = "it"\n', "1 C204 flow is missing"),
        ('[[case]]\nname = "it"\nflow = 7\n', '3 T302 flows.conf has no flow 7 (there is "1", "2"'),
        ("[[case]]\nname = 1\nflow = 1\n", "2 C205 name must be a text, not a whole number"),
        ('[case]\nname = "it"\n', "1 C205 case must be a list, not a table (write [[case]])"),
        ("case = [1]\n", "1 C205 case must contain tables, not a whole number"),
        (HEAD + "pyload = 1\n", '4 C203 pyload is not known (did you mean "payload"?)'),
        (HEAD + "xyz = 1\n", "4 C203 xyz is not known (there is at, balancer"),
        (
            HEAD + "payload = 1\npayload_json = '1'\n",
            "5 C206 use payload or payload_json, not both",
        ),
        (HEAD + "payload_json = '{'\n", "4 C206 this is not JSON"),
        (HEAD + "[[case.reply]]\nbase64 = 'AA'\n", "5 C206 base64 is not base64"),
        (
            HEAD + "[[case.reply]]\nbase64 = 'AA=='\ntext = ''\n",
            "5 C206 use text or base64, not both",
        ),
        (HEAD + "payload = 07:32:00\n", NOT_JSON),
        (HEAD + "payload = [nan]\n", NOT_JSON),
        (HEAD + f"payload{'.a' * 3000} = 1\n", NOT_JSON),
        (HEAD + f"payload = {'9' * 30}\n", NOT_JSON),
        (HEAD + "[[case.reply]]\nheaders = { A = '€' }\n", "5 C206 this cannot be a header"),
        (HEAD + '[[case.reply]]\nheaders = { A = "x\\n" }\n', "5 C206 this cannot be a header"),
        (HEAD + "at = 2026-01-01\n", "4 C205 at must be a date and time with a time zone"),
        (HEAD + "watch = 'long'\n", '4 C206 watch is "long", and should be a length of time'),
        (HEAD + "[case.expect]\nstate = 'ok'\n", '5 C206 state is "ok" (there is '),
        (HEAD + "broker = 'dwon'\n", '4 C206 broker is "dwon" (did you mean "down"?)'),
        (HEAD + "[[case.reply]]\nto = 'c 1'\n", '5 T302 component "c" is not in components.conf'),
        (HEAD + "[[case.reply]]\nto = 'a 3'\n", '5 T302 component "a" has no endpoint "3"'),
        (HEAD + "[[case.reply]]\nto = 'a 1 2'\n", "5 C206 to must be a component and at most"),
        (HEAD + "[[case.reply]]\nto = ''\n", '5 T302 component "" is not in components.conf'),
        (HEAD + "[[case.reply]]\ncall = 3\n", "5 T302 flow 1 has no call 3 (its calls are 1 to 2)"),
        (HEAD + "[[case.reply]]\ncall = 0\n", "5 C206 call must be from 1 to 10000"),
        (HEAD + "[[case.reply]]\nstatus = 99\n", "5 C206 status must be from 200 to 599"),
        (HEAD + "[[case.reply]]\ntext = ''\njson = 1\n", "6 C206 use text or json, not both"),
        (HEAD + "[[case.reply]]\nheaders = 'x'\n", "5 C205 headers must be a table, not a text"),
        (HEAD + "[[case.reply]]\n\n[[case.reply]]\nfault = 'no'\n", '7 C206 fault is "no" (there'),
        (HEAD + "[[case.peer]]\nnode = 9\n", "5 T302 nodes.conf has no node 9"),
        (HEAD + "[case.expect]\nresults.thrid = 1\n", '5 T302 flow 1 has no result "thrid"'),
        (HEAD + "[case.expect]\nskipped = [3]\n", '5 T302 flow 1 has no call "3"'),
        (HEAD + "[[case.expect.publish]]\n", "4 C204 topic is missing"),
        (HEAD + HEAD, '5 T303 the case at line 1 also has the name "it"'),
    ],
)
def test_a_mistake_in_a_case_is_a_finding_with_its_line(configuration, text, finding):
    assert any(finding in each for each in findings(configuration, text)), findings(
        configuration, text
    )


def test_a_name_that_is_not_a_text_is_one_finding(configuration):
    wrong = "2 C205 name must be a text, not a whole number"
    assert findings(configuration, "[[case]]\nname = 3\nflow = 1\n") == [wrong]


def test_all_mistakes_in_a_file_are_reported_together(configuration):
    text = '''# a comment with [[case]] in it
[[case]]
name = """
[[case]]
"""
flow = 1
payload = { a = [
  "]",  # a bracket
  1 ] }
unknown = 1

[[case]]
name = 'two'
flow = 1
reply = [ { text = "[[case]]" }, { txt = 1 } ]
expect.state = "no such"
expect . "rason" = "x"
'''
    assert [each.partition(" ")[0] for each in findings(configuration, text)] == [
        "10",
        "15",
        "16",
        "17",
    ]


def test_a_finding_does_not_show_the_secrets_of_its_line(configuration):
    with pytest.raises(ConfigRejected) as rejected:
        read_cases(HEAD + 'passwrd = "hunter2"\n', configuration)
    assert "hunter2" not in rejected.value.findings[0].render()


def test_cases_are_selected_by_a_part_of_their_name(configuration):
    cases = read_cases(HEAD + HEAD.replace("it", "Another"), configuration)
    assert [case.name for case in select_cases(cases, ["ANO"])] == ["Another"]
    assert len(select_cases(cases, [])) == 2


# --- the documentation ------------------------------------------------------------------------


def test_the_cases_in_the_how_to_guide_pass():
    page = (DOCS / "how-to" / "test-flows.md").read_text()
    (flow,) = re.findall(r"^```\n(1\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    configuration = config(flows=flows(flow.replace("component1", "a").replace("component2", "b")))
    examples = re.findall(r"^```toml\n(\[\[case]].*?)^```$", page, re.DOTALL | re.MULTILINE)
    text = "\n".join(examples).replace("component1", "a").replace("component2", "b")
    cases = read_cases(text, configuration)
    assert len(cases) == 2
    assert [run_case(case, configuration).differences for case in cases] == [(), ()]


@pytest.mark.parametrize(
    "table",
    ["[case.?]", "[[case.reply]]", "[case.balancer]", "[[case.peer]]", "[case.expect]",
     "[[case.expect.call]]", "[[case.expect.publish]]"],
)  # fmt: skip
def test_every_key_of_a_case_is_in_the_reference(configuration, table):
    reference = (DOCS / "reference" / "cases.md").read_text()
    text = f"{HEAD}qqqq = 1" if "?" in table else f"{HEAD}{table}\nqqqq = 1"
    (finding,) = [each for each in findings(configuration, text) if "qqqq is not known" in each]
    _, _, known_keys = finding.partition("(there is ")
    keys = re.findall(r"\w+", known_keys)
    assert len(keys) > 2
    assert [
        key for key in keys if f"`{key}`" not in reference and f".{key}]" not in reference
    ] == []


def test_a_file_of_cases_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "it.toml").write_text(f"\ufeff{HEAD}", encoding="utf-8")
    assert read_text(tmp_path / "it.toml") == HEAD

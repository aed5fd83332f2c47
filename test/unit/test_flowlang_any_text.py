"""Any text is either compiled to flows or has findings."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.findings import CODES, Level
from fractal_rm.domain.flow import (
    Call,
    Flow,
    SubFlow,
)
from fractal_rm.flowlang import compile_flows

KNOWN = {"camera": ("1", "2"), "detector": ("1",)}

_WORDS = """1 2 TO GET POST PUT DELETE camera detector payload result1 # x JSON RAW AS WHEN EXPECT
    TIMEOUT RETRY EVERY 3 5s HEADER QUERY DEADLINE ERRORS continue found payload.a found."a b" {
    } [ ] ( ) , : " "a" "a": \\ == != < in and or not true null status(found) header(found, . ..
    ON a/+/# CRON "0 6 * * *" Europe/Rome CATCHUP all LIMIT PRIORITY ORDER dataflow STALE LATEST
    RUN WAIT PUBLISH REPLY UNDO FOREACH item item.a $share/g/t"""
_words = st.sampled_from([*_WORDS.split(), "", "\t"])
_lines = st.lists(_words, max_size=7).map(" ".join)
_texts = st.lists(_lines | _lines.map("  {}".format), max_size=12).map("\n".join)
_before_items = st.sampled_from(
    ["POST ", "POST JSON ", "  WHEN ", "  EXPECT ", "  HEADER a ", "  AS ", "  FOREACH ", "  UNDO ",
     "RUN ", "RUN 1 ", "WAIT ", "PUBLISH ", "PUBLISH a JSON ", "REPLY ", "  LIMIT "]
)  # fmt: skip
_before_a_setting = st.sampled_from(
    ["ON ", "EVERY ", "CRON ", 'CRON "', "LATEST ", "LIMIT ", "STALE "]
)
_settings = st.lists(
    st.tuples(_before_a_setting, st.text(max_size=20) | _words).map("".join), max_size=4
)
_calls = st.lists(st.tuples(_before_items, st.text(max_size=30) | _lines).map("".join), max_size=6)
_flows = st.tuples(_settings, _calls).map(
    lambda parts: "\n".join(["1", *parts[0], "TO camera 1", "GET", "  AS found", *parts[1]])
)


@given(st.one_of(_texts, _flows, st.text(max_size=200)))
def test_any_text_is_either_compiled_or_has_findings(text):
    check_flows_or_findings(text)


REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "flows.md").read_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_either_compiled_or_have_findings(seed):
    """Examples of every keyword with bytes changed, removed, doubled and moved."""
    random = Random(seed)
    examples = re.findall(rb"```flow\n(.*?)```", REFERENCE, re.DOTALL)
    for _ in range(25):
        text = bytearray(b"\n".join(random.sample(examples, 4)))
        for _ in range(random.randint(1, 12)):
            at, length = random.randrange(len(text)), random.choice([1, 1, 1, 4, 20])
            piece = random.choice([
                b"", random.randbytes(length), random.choice(b' \n"#.$({[\\').to_bytes(1, "big"),
                text[at : at + length] * 2, text[random.randrange(len(text)) :][: length * 2],
            ])  # fmt: skip
            text[at : at + random.choice([0, length])] = piece
        check_flows_or_findings(text.decode("utf-8", "replace"))
        check_flows_or_findings(text.decode("latin-1"))


def check_flows_or_findings(text: str) -> None:
    flows, findings = compile_flows(text, KNOWN)
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for finding in findings:
        assert finding.code in CODES
        place = finding.place
        assert lines[place.line - 1][place.column - 1 :][: place.width].strip()
        assert finding.render()
    for flow in flows.values():
        if all(finding.level is Level.WARNING for finding in findings):
            assert msgspec.json.decode(msgspec.json.encode(flow), type=Flow) == flow
        counted = [step.number for step in flow.steps if isinstance(step, (Call, SubFlow))]
        assert counted == list(range(1, len(counted) + 1))

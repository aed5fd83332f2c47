"""Formatting keeps the meaning of flows, and formatting twice changes nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.flow import Flow
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.format import format_flows
from fractal_rm.flowlang.scan import is_comment, read_line, text_lines

KNOWN = {"camera": ("1", "2"), "detector": ("1",)}


def meaning(text: str) -> list[Flow]:
    """The flows of a text, without the numbers of their lines."""
    flows, findings = compile_flows(text, KNOWN)
    assert [finding.render() for finding in findings if finding.level == "error"] == []
    replace = msgspec.structs.replace
    return [
        replace(flow, line=0, steps=tuple(replace(step, line=0) for step in flow.steps))
        for flow in flows.values()
    ]


def comments(text: str) -> list[str]:
    lines = text_lines(text)
    ends = (0 if is_comment(line) else read_line(0, line).end for line in lines)
    comment_texts = (line[end:].strip() for line, end in zip(lines, ends, strict=True))
    return [comment for comment in comment_texts if comment]


BEFORE = """\
\ufeff# what this line does


1   inspect  a frame # the number
DEADLINE\t5s   # whole
 # about the camera
TO camera   1
  GET \t
      TIMEOUT   800ms  # it is quick
      # for later
      AS frame
TO detector 1
POST JSON {"image":   frame.data,   "a  b": "x  # y"}   # long
   WHEN   frame.score>0.8   and frame."a[?x=='b  c']" != null
# the end


# alone
2\r
TO camera 1\r
GET"""

AFTER = """\
# what this line does

1 inspect  a frame                                 # the number
DEADLINE 5s                                        # whole
# about the camera
TO camera 1
GET
  TIMEOUT 800ms                                    # it is quick
  # for later
  AS frame
TO detector 1
POST JSON {"image": frame.data, "a  b": "x  # y"}  # long
  WHEN frame.score>0.8 and frame."a[?x=='b  c']" != null
# the end

# alone
2
TO camera 1
GET
"""


def test_a_file_is_formatted_without_changing_its_meaning():
    assert format_flows(BEFORE) == AFTER
    assert meaning(BEFORE) == meaning(AFTER)


@pytest.mark.parametrize("text", ["", "\n", " \t\r\n\r", "\ufeff"])
def test_a_blank_file_becomes_an_empty_file(text):
    assert format_flows(text) == ""


def test_a_very_long_line_does_not_move_the_comments_of_other_lines():
    text = "1\nTO camera 1  # here\nPOST" + " payload" * 20 + "  # there\n"
    assert format_flows(text) == text


def test_a_comment_indented_under_a_call_stays_indented():
    text = "1\nTO camera 1\nGET\n  # AS frame\nGET\n# GET\n"
    assert format_flows(text) == text
    assert format_flows(text.replace("\n", "\n   ").rstrip(" ")) == text


def test_quoted_text_in_a_path_is_not_changed():
    text = "1\nTO camera 1\nGET\nPOST result1.\"a[?b == `'x  y'`]\"  payload\n"
    assert format_flows(text) == text.replace("  payload", " payload")


BLANK = st.sampled_from(["", " ", "\t", "  \t "])
GAP = st.sampled_from([" ", "  ", "\t", " \t ", "    "])
COMMENT = st.sampled_from(["", "", "", "  # a", "\t#b ", ' # "c', "  # d 'e"])
TITLE = st.sampled_from(["", "a  title", 'a 12" screen', "it's  so", "ends\twith ", "Füße"])
WHEN = ("WHEN", "payload.a", "==", '"b  c"')
SETTINGS = st.lists(
    st.sampled_from(
        [
            ("DURABLE", "step"), ("DEADLINE", "5s"), ("LIMIT", "4"), ("ON", '"a  b/#"'),
            ("LIMIT", "4", "10/s"),
            ("CRON", '"0  6 * * 1-5"', "Europe/Rome"), ("LATEST", "line.id"),
        ]
    ),
    unique_by=lambda words: words[0],
)  # fmt: skip
CALLS = st.sampled_from(
    [
        ("GET",), ("DELETE",), ("POST",), ("POST", "payload", "payload.a"),
        ("PUT", "JSON", '{"a  b":', "payload.x,", '"c": "#  d"}'), ("PATCH", "RAW", "payload"),
        ("POST", 'payload."a[?b == `\'x  y\'`]"', "payload"),
    ]
)  # fmt: skip
OTHERS = st.sampled_from(
    [("WAIT", "2s"), ("PUBLISH", "a/b", "payload"), ("REPLY", "JSON", '{"a":', "payload}")]
)
MODIFIERS = st.lists(
    st.sampled_from(
        [
            ("TIMEOUT", "800ms"), ("RETRY", "3", "EVERY", "1s"), ("HEADER", "X-A", '"#  1"'),
            ("QUERY", "q", "payload.line"), ("EXPECT", "200"), ("UNDO", "2", "payload"), WHEN,
        ]
    ),
    unique_by=lambda words: words[0],
)  # fmt: skip
FOR_EACH = st.sampled_from([(), (("FOREACH", "payload.a"), ("LIMIT", "4"))])


@st.composite
def files(draw: st.DrawFn) -> str:
    """Files without errors, in any layout."""
    lines: list[str] = []

    def add_line(*words: str, indent: str = "", comment: bool = True) -> None:
        spaced = words[0] + "".join(draw(GAP) + word for word in words[1:])
        lines.append(indent + spaced + (draw(COMMENT) if comment else "") + draw(BLANK))

    def add_comment_lines() -> None:
        for _ in range(draw(st.integers(0, 2))):
            lines.append(draw(st.sampled_from(["#a", "  # b  ", "\t#"])))

    for number in range(draw(st.integers(0, 4))):
        add_comment_lines()
        title = draw(TITLE)
        add_line(str(number), *([title] if title else []), comment='"' not in title)
        for setting in draw(SETTINGS):
            add_comment_lines()
            add_line(*setting, indent=draw(BLANK))
        add_line("TO", "camera", "1", indent=draw(BLANK))
        for call in draw(st.lists(CALLS, min_size=1, max_size=3)):
            indent = draw(BLANK)
            add_comment_lines()
            add_line(*call, indent=indent)
            for modifier in (*draw(MODIFIERS), *draw(FOR_EACH)):
                add_comment_lines()
                add_line(*modifier, indent=indent + draw(GAP))
            for other in draw(st.lists(OTHERS, max_size=1)):
                add_line(*other, indent=indent)
                if draw(st.booleans()):
                    add_line(*WHEN, indent=indent + draw(GAP))
        add_comment_lines()
        lines += [draw(BLANK)] * draw(st.integers(1, 3))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return (
        draw(st.sampled_from(["", "\ufeff"])) + end.join(lines) + draw(st.sampled_from(["", end]))
    )


@given(files())
def test_formatting_keeps_the_meaning(text):
    assert meaning(format_flows(text)) == meaning(text)


@given(files())
def test_formatting_again_changes_nothing(text):
    once = format_flows(text)
    assert format_flows(once) == once
    assert "\r" not in once
    if once:
        assert once.endswith("\n")
        assert not once.endswith("\n\n")


@given(files())
def test_formatting_keeps_the_comments_in_order(text):
    assert comments(format_flows(text)) == comments(text)


@given(st.text())
def test_any_text_can_be_formatted(text):
    format_flows(text)

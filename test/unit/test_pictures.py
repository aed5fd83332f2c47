"""Pictures of flows are complete, nothing overlaps, and all texts are escaped."""

from __future__ import annotations

import itertools
import random
import re
from typing import NamedTuple
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.expression import Compare, Comparison, Item, Literal, Payload, Result
from fractal_rm.domain.flow import (
    Call,
    CallOptions,
    Content,
    Flow,
    ForEach,
    Method,
    Order,
    Publish,
    QueueSettings,
    Reply,
    Retry,
    StartSettings,
    Step,
    SubFlow,
    Undo,
    Wait,
)
from fractal_rm.domain.rate import Rate
from fractal_rm.pictures.box import BOX_WIDTH, STACK_OFFSET, draw_box
from fractal_rm.pictures.card import cards, heading
from fractal_rm.pictures.mermaid import mermaid
from fractal_rm.pictures.order import layers, predecessors
from fractal_rm.pictures.svg import svg
from fractal_rm.pictures.svg_elements import WIDEST_CHARACTER, shorten, text_width, wrap

SVG = "{http://www.w3.org/2000/svg}"
WHEN = Compare(Comparison.GREATER, Result(1, "score"), Literal(0.8))
FULL = Flow(
    "1",
    'inspect <a> "frame" & more',
    (
        Call(1, "camera", "frame", Method.GET, (), 0,
             CallOptions(name="frame", retry=Retry(3, 100))),
        Call(2, "detector", "1", Method.POST, (Result(1), Payload()), 0,
             CallOptions(when=WHEN, undo=Undo("2", (Result(1),)), timeout_ms=800)),
        Call(3, "store", "1", Method.PUT, (), 0,
             CallOptions(raw=Item("text"), foreach=ForEach(Result(2, "boxes"), 4))),
        Wait(2000),
        SubFlow(4, "7", Content((Result(3),)), "printed"),
        Publish("factory/alerts", Content(json=Literal({"a": 1})), WHEN),
        Reply(Content((Result(2),))),
    ),
    deadline_ms=5000,
    starts=StartSettings(("factory/+/frame",), 30_000),
    queueing=QueueSettings(limit=4, rate=Rate(10)),
)  # fmt: skip
EXPECTED_TEXTS = [
    "Flow 1", 'inspect <a> "frame" & more', "factory/+/frame", "30s", "DEADLINE", "5s", "LIMIT",
    "4 10/s",
    "GET", "camera frame", "= frame", "3 EVERY 100ms", "frame.score > 0.8", "frame payload",
    "POST detector 2 frame", "FOREACH", "result2.boxes, 4 at once", "RAW item.text", "WAIT",
    "RUN", "flow 7", "= printed", "PUBLISH", 'JSON {"a": 1}', "REPLY",
]  # fmt: skip


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(picture).iter(f"{SVG}text")]


def random_flow(count: int, seed: int, order: Order = Order.DATAFLOW) -> Flow:
    """A flow whose calls need the results of some earlier calls."""
    chance = random.Random(seed)
    steps: list[Step] = []
    for number in range(1, count + 1):
        earlier = range(max(1, number - 9), number)
        needed = chance.sample(earlier, min(chance.choice([0, 1, 1, 2, 3]), len(earlier)))
        options = CallOptions(when=WHEN if chance.random() < 0.2 and number > 1 else None,
                        foreach=ForEach(Payload()) if chance.random() < 0.2 else None)  # fmt: skip
        items = tuple(map(Result, needed))
        steps.append(Call(number, "component", "run", Method.POST, items, 0, options))
        if chance.random() < 0.05:
            steps.append(Wait(1000))
    return Flow("1", "many", tuple(steps), order=order)


@pytest.mark.parametrize("order", list(Order))
def test_the_picture_has_every_text_of_the_flow(order):
    shown_texts = texts(svg(msgspec.structs.replace(FULL, order=order)))
    assert [each for each in EXPECTED_TEXTS if each not in shown_texts] == []


def test_a_topic_is_written_as_in_the_file():
    starts = StartSettings(("#", "line 3/frame", "line/3"))
    flow = Flow("1", steps=(Publish("to all", Content()),), starts=starts)
    topics = [text for keyword, text in heading(flow).starts if keyword == "ON"]
    assert topics == ['"#"', '"line 3/frame"', "line/3"]
    assert cards(flow)[0].target == '"to all"'


def test_a_condition_on_elements_draws_no_bypass_around_the_step():
    when = Compare(Comparison.GREATER, Item("x"), Literal(3))
    options = CallOptions(foreach=ForEach(Payload("boxes")), when=when)
    flow = Flow("1", steps=(Call(1, "camera", "1", Method.POST, (), 0, options),))
    shown_texts = texts(svg(flow))
    assert shown_texts.index("FOREACH") < shown_texts.index("WHEN")
    assert "else" not in shown_texts
    assert "FOREACH payload.boxes, one at a time<br/>WHEN item.x #62; 3" in mermaid(flow)
    assert "{" not in mermaid(flow)


def test_pictures_of_the_same_flow_are_equal():
    assert svg(FULL) == svg(FULL)
    assert mermaid(FULL) == mermaid(FULL)


def test_a_flow_without_steps_has_a_picture():
    for order in Order:
        assert "Flow 9" in texts(svg(Flow("9", order=order)))
    assert "start --> done" in mermaid(Flow("9"))


class Box(NamedTuple):
    """The edges of a box in a picture."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        beside = self.right < other.left or other.right < self.left
        above_or_below = self.bottom < other.top or other.bottom < self.top
        return not (beside or above_or_below)


def boxes(picture: str) -> list[Box]:
    """The boxes of all steps in a picture."""
    found = []
    for group in ET.fromstring(picture).iter(f"{SVG}g"):
        translated = re.fullmatch(r"translate\((\S+) (\S+)\)", group.get("transform", ""))
        shapes = [e for e in group if e.tag == f"{SVG}rect" and e.get("width") == f"{BOX_WIDTH:g}"]
        if translated and shapes:
            x, y = float(translated[1]), float(translated[2])
            height = max(float(shape.get("height", 0)) for shape in shapes)
            found.append(Box(x, y, x + BOX_WIDTH, y + height))
    return found


def lines(picture: str) -> list[tuple[float, float, float, float]]:
    """The segments of the lines between boxes: their left, right, top and bottom."""
    segments = []
    for group in ET.fromstring(picture).iter(f"{SVG}g"):
        if not any(e.tag == f"{SVG}g" and e.find(f"{SVG}g") is None for e in group):
            continue
        paths = [e for e in group if e.tag == f"{SVG}path" and e.get("fill") is None]
        for path in (e.get("d", "") for e in paths):
            points = [tuple(map(float, p.split())) for p in re.split("[ML]", path) if p]
            segments += [(*sorted((a[0], b[0])), *sorted((a[1], b[1])))
                      for a, b in itertools.pairwise(points)]  # fmt: skip
    return segments


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("count", [1, 2, 7, 20, 60])
def test_boxes_and_lines_do_not_overlap(count, order):
    for seed in range(3):
        flow = random_flow(count, seed, order)
        picture = svg(flow)
        all_boxes = boxes(picture)
        assert len(all_boxes) == len(flow.steps)
        for a, b in itertools.combinations(all_boxes, 2):
            assert not a.overlaps(b)
        page = ET.fromstring(picture)
        assert all(box.right + STACK_OFFSET <= float(page.get("width", 0)) for box in all_boxes)
        segments = lines(picture)
        if count >= 7:
            assert segments != []
        for line_left, line_right, line_top, line_bottom in segments:
            for box in all_boxes:
                beside = line_right <= box.left or line_left >= box.right
                above_or_below = line_bottom <= box.top or line_top >= box.bottom
                line = (line_left, line_right, line_top, line_bottom)
                assert beside or above_or_below, (flow, line, box)


ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=300)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_text_fits_into_its_box(name, path, topic):
    flow = Flow(
        name or "1",
        topic,
        (
            Call(1, name, topic, Method.PATCH, (Payload(path),) * 3, 0,
                 CallOptions(name=name,
                       when=Compare(Comparison.EQUAL, Payload(path), Literal(topic)),
                       foreach=ForEach(Payload(path)), undo=Undo(topic, (Payload(path),)),
                       headers=((name, Literal(path)),))),
            Publish(topic, Content(raw=Payload(path))),
        ),
    )  # fmt: skip
    ET.fromstring(svg(flow))
    for card in cards(flow):
        for element in draw_box(card).elements:
            match = re.search(r'<text x="(\S+)" .*?font-size="(\S+)"(.*?)>(.*)</text>', element)
            if match and "text-anchor" not in match[3]:
                text = ET.fromstring(f"<a>{match[4]}</a>").text or ""
                width = text_width(text) * float(match[2]) * WIDEST_CHARACTER
                assert float(match[1]) + width <= BOX_WIDTH


@given(ANY_TEXT, st.integers(10, 60), st.integers(1, 4))
def test_a_long_text_is_cut_in_the_middle(text, width, max_lines):
    wrapped_lines = wrap(text, width, max_lines)
    assert len(wrapped_lines) <= max_lines
    assert all(text_width(line) <= width for line in wrapped_lines)
    if text_width(text) > width * max_lines:
        assert "…" in "".join(wrapped_lines)


def test_a_text_that_fits_is_not_cut():
    assert shorten("0123456789", 10) == "0123456789"
    assert shorten("0123456789", 9) == "0123…6789"
    assert shorten("漢字漢字漢字", 9) == "漢字…漢字"


def call(number: int, *needed: int) -> Call:
    return Call(number, "c", "e", Method.POST, tuple(map(Result, needed)))


def test_arrows_come_only_from_the_steps_that_a_step_waits_for_directly():
    steps = (call(1), call(2, 1), call(3, 1), call(4, 1, 2, 3))
    assert predecessors(steps) == [[], [0], [0], [1, 2]]
    assert layers(predecessors(steps)) == [[0], [1, 2], [3]]


def test_a_barrier_is_below_all_earlier_steps_and_above_all_later_steps():
    steps = (call(1), call(2), Wait(1), call(3, 1), Publish("t"), call(4), Reply())
    assert predecessors(steps) == [[], [], [0, 1], [2], [3], [4], [5]]
    sends = Publish("t", Content((Result(1),)))
    assert predecessors((call(1), call(2), sends, call(3))) == [[], [], [0], []]


def test_mermaid_has_every_step_and_its_conditions():
    text = mermaid(FULL)
    assert text.startswith("flowchart TD\n")
    assert 'w1{"WHEN frame.score #62; 0.8"}' in text
    assert "w1 -->|yes| s1" in text
    assert "w1 -->|no| s2" in text
    assert "s1 -.->|if a later step fails| u1" in text
    assert "start --> s0" in text
    assert "s6 --> done" in text


@given(ANY_TEXT)
def test_in_mermaid_every_text_stays_inside_its_quotes(text):
    flow = Flow("1", text, (Publish(text, Content((Payload(text),))),))
    for line in mermaid(flow).splitlines()[1:]:
        inner = re.fullmatch(r'  (?:start|s0|done)(?:\(\["|>"|\(\(\()(.*?)(?:"\]\)?|\)\)\))', line)
        if inner:
            assert re.fullmatch(r"(?:<br/>|#[0-9]+;|[^\W]|[ ,.:=_+*/-])*", inner[1])
        else:
            assert re.fullmatch(r"  \w+ --> \w+", line)

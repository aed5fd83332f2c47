"""The grammar for editors has a colour for every keyword of the language."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fractal_rm.flowlang.instructions import INSTRUCTIONS
from fractal_rm.flowlang.modifiers import MODIFIERS
from fractal_rm.flowlang.settings import SETTINGS

ROOT = Path(__file__).parents[2]
GRAMMAR = json.loads((ROOT / "docs" / "editors" / "flows.tmLanguage.json").read_text())
REFERENCE = (ROOT / "docs" / "reference" / "flows.md").read_text()


def rules(patterns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rules. Each ``include`` is replaced by the rules that it includes."""
    flat_rules: list[dict[str, Any]] = []
    for rule in patterns:
        if "include" in rule:
            flat_rules += rules([GRAMMAR["repository"][rule["include"].removeprefix("#")]])
        elif "match" in rule or "begin" in rule:
            flat_rules.append(rule)
        else:
            flat_rules += rules(rule["patterns"])
    return flat_rules


RULES = rules(GRAMMAR["patterns"])


def without_suffix(scope: str) -> str:
    return scope.removesuffix(".fractal-flows")


def colours(line: str) -> dict[str, str]:
    """The scope of each coloured part of a line. As in an editor, the leftmost match is used."""
    scopes: dict[str, str] = {}
    at = 0
    while True:
        matches = [(re.compile(r.get("match", r.get("begin"))).search(line, at), r) for r in RULES]
        hits = [(m.start(), n, m, r) for n, (m, r) in enumerate(matches) if m and m[0]]
        if not hits:
            return scopes
        _, _, match, rule = min(hits, key=lambda hit: hit[:2])
        at = match.end()
        if "begin" in rule:
            end = re.compile(r'(?:[^"\\]|\\.)*("|\\?$)').match(line, at)
            assert end is not None
            at = end.end()
            scopes[line[match.start() : at]] = without_suffix(rule["name"])
        elif "name" in rule:
            scopes[match[0].strip()] = without_suffix(rule["name"])
        for group, capture in rule.get("captures", {}).items():
            if match[int(group)]:
                scopes[match[int(group)].strip()] = without_suffix(capture["name"])


@pytest.mark.parametrize("keyword", [*INSTRUCTIONS, "TO"])
def test_every_instruction_has_a_colour(keyword):
    assert colours(f"{keyword} a 1")[keyword].startswith("keyword.control")
    if keyword != "GET":
        assert keyword not in colours(f"GET {keyword}")


@pytest.mark.parametrize("keyword", list(SETTINGS))
def test_every_setting_has_a_colour(keyword):
    assert colours(f"{keyword} 5")[keyword] == "storage.modifier.setting"


@pytest.mark.parametrize("keyword", list(MODIFIERS))
def test_every_modifier_has_a_colour(keyword):
    kind = "storage.modifier.setting" if keyword in SETTINGS else "keyword.other.modifier"
    assert colours(f"  {keyword} a")[keyword] == kind


@pytest.mark.parametrize(
    ("line", "scopes"),
    [
        ("1 a GET in  it  # x", {"1": "entity.name.function", "a GET in  it": "markup.heading",
                                 "# x": "comment.line.number-sign"}),
        ('1 a "b # c', {"1": "entity.name.function", 'a "b # c': "markup.heading"}),
        ("12", {"12": "entity.name.function"}),
        ("  # POST payload", {"# POST payload": "comment.line.number-sign"}),
        ("TO camera 1 # x", {"TO": "keyword.control.target", "camera": "entity.name.type",
                             "1": "entity.name.tag", "# x": "comment.line.number-sign"}),
        ("LIMIT 4 10/s", {"LIMIT": "storage.modifier.setting", "4": "constant.numeric",
                          "10/s": "constant.numeric"}),
        ("DURABLE step", {"DURABLE": "storage.modifier.setting", "step": "constant.language"}),
        ("POST result1 payload.x found.in", {
            "POST": "keyword.control.instruction", "result1": "variable.language",
            "payload": "variable.language"}),
        ('POST JSON {"a # b": [1.5, true], "c": payload}', {
            "POST": "keyword.control.instruction", "JSON": "keyword.other.body",
            '"a # b"': "string.quoted.double", "1.5": "constant.numeric",
            "true": "constant.language", '"c"': "string.quoted.double",
            "payload": "variable.language"}),
        ("POST base64(result1)", {
            "POST": "keyword.control.instruction", "base64": "support.function",
            "result1": "variable.language"}),
        ("  AS frame", {"AS": "keyword.other.modifier", "frame": "variable.other.definition"}),
        ("  RETRY 3 EVERY 100ms", {
            "RETRY": "keyword.other.modifier", "3": "constant.numeric",
            "EVERY": "keyword.other.body", "100ms": "constant.numeric"}),
        ('  WHEN not status(a) >= 200 or header(a, "\\"x") in ["y"]', {
            "WHEN": "keyword.other.modifier", "not": "keyword.operator.word",
            "status": "support.function", ">=": "keyword.operator.comparison",
            "200": "constant.numeric", "or": "keyword.operator.word",
            "header": "support.function", '"\\"x"': "string.quoted.double",
            "in": "keyword.operator.word", '"y"': "string.quoted.double"}),
        ('CRON "0 6 * * 1-5" Europe/Rome', {
            "CRON": "storage.modifier.setting", '"0 6 * * 1-5"': "string.quoted.double"}),
        ("ON factory/+/frame", {"ON": "storage.modifier.setting"}),
    ],
)  # fmt: skip
def test_the_parts_of_a_line_have_their_colours(line, scopes):
    assert colours(line) == scopes


def test_the_first_word_of_every_line_of_the_reference_has_a_colour():
    for example in re.findall(r"^```flow\n(.*?)^```$", REFERENCE, re.DOTALL | re.MULTILINE):
        for line in filter(str.strip, example.splitlines()):
            assert line.split()[0] in colours(line), line

"""Cases of a draft are run in a process of its own, which cannot slow the node without end."""

from __future__ import annotations

import asyncio
import json

import pytest

from fractal_rm.domain.case_report import MAX_CASES, NO_CASES
from fractal_rm.wiring.draft_cases import DraftCases, report_of

FLOW = "1 a flow\nTO a 1\nGET\n"
CASE = """
[[case]]
name = "case %d"
flow = 1
payload = "{}"
watch = "24h"
[[case.reply]]
status = %d
[case.expect]
state = "succeeded"
"""
ENDLESS = "1 a flow\nTO a 1\nGET\n  RETRY 100 EVERY 1ms\n"


@pytest.fixture
def folder(tmp_path):
    target = {"protocol": "http", "ip": "127.0.0.1", "port": 1, "endpoints": {"1": "x"}}
    contents = {
        "comm": {},
        "nodes": {},
        "load_balancer": {},
        "components": {"a": {"config": target}},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.conf").write_text(json.dumps(content))
    (tmp_path / "flows.conf").write_text("nothing that is read\n")
    return tmp_path


def run(folder, draft, seconds=120):
    return asyncio.run(DraftCases(lambda: folder, seconds).run(draft))


def test_the_cases_of_the_folder_are_run_with_the_draft(folder):
    (folder / "flows.cases.toml").write_text(CASE % (1, 200) + CASE % (2, 500))
    report = run(folder, FLOW)
    assert [(each.name, each.passed) for each in report.results] == [
        ("case 1", True), ("case 2", False),
    ]  # fmt: skip
    assert report.results[1].differences[0].what
    assert not report.is_well


def test_without_a_file_of_cases_nothing_is_started(folder):
    assert run(folder, FLOW) == NO_CASES


def test_a_wrong_file_of_cases_is_named(folder):
    (folder / "flows.cases.toml").write_text("[[case]\n")
    assert "flows.cases.toml:1" in run(folder, FLOW).fault


def test_cases_that_take_too_long_are_ended_and_earlier_results_are_kept(folder):
    many = "".join(CASE % (number, 503) for number in range(1, MAX_CASES + 1))
    (folder / "flows.cases.toml").write_text(many)
    report = run(folder, ENDLESS, seconds=1)
    assert report.total in (0, MAX_CASES)
    assert len(report.results) < MAX_CASES
    assert "they took more than 1 s" in report.fault


def test_only_so_many_cases_are_run_and_the_report_says_so(folder):
    many = "".join(CASE % (number, 200) for number in range(MAX_CASES + 5))
    (folder / "flows.cases.toml").write_text(many)
    report = run(folder, FLOW)
    assert (len(report.results), report.total) == (MAX_CASES, MAX_CASES + 5)
    assert "only the first" in report.fault


def test_an_output_that_was_cut_keeps_its_whole_lines():
    line = b'{"name":"a","flow":"1","line":1}'
    report = report_of(b'{"total":3}\n' + line + b"\n" + line[:10], "they took too long")
    assert (len(report.results), report.total, report.fault) == (1, 3, "they took too long")
    assert report_of(b"", "it could not begin").total == 0

"""Each line of docs/explanation/threat-model.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
HEAD = "| who | through where | what stops them | test |"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and line != HEAD
]
_TEST = re.compile(r"`([a-z]+/test_\w+\.py)::(test_\w+)`")


def test_the_page_has_tables_with_the_same_columns():
    assert PAGE.count(HEAD) == PAGE.count("|---|---|---|---|") == PAGE.count("\n## ") - 1
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_line_names_its_tests(row):
    assert len(row) == 4
    named = _TEST.findall(row[3])
    assert row[3] == ", ".join(f"`{file}::{name}`" for file, name in named)
    assert named
    for file, name in named:
        assert re.search(
            rf"^ *(async )?def {name}\(", (ROOT / "test" / file).read_text(), re.MULTILINE
        )

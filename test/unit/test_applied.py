"""The configurations that a node has applied, with who has changed them."""

from __future__ import annotations

import pytest

from fractal_rm.config.applied import (
    CHANGED_FILES,
    KEPT,
    applied_numbers,
    read_applied,
    store_applied,
)

FILES = {"flows.conf": "1\n"}


@pytest.mark.parametrize("later_ms", [-500, 500])
def test_who_has_changed_the_files_may_be_known_after_the_node_has_noticed_the_change(
    tmp_path, later_ms
):
    assert store_applied(tmp_path, FILES, CHANGED_FILES, 10_000) is not None
    assert store_applied(tmp_path, FILES, "token anna", 10_000 + later_ms) is not None

    assert applied_numbers(tmp_path) == [1]
    assert read_applied(tmp_path, 1).by == "token anna"


def test_a_change_by_nobody_known_stays_so_when_the_same_files_are_saved_a_day_later(tmp_path):
    assert store_applied(tmp_path, FILES, CHANGED_FILES, 0) is not None

    assert store_applied(tmp_path, FILES, "token anna", 86_400_000) is None
    assert read_applied(tmp_path, 1).by == CHANGED_FILES


def test_the_newest_are_kept(tmp_path):
    for number in range(KEPT + 2):
        assert store_applied(tmp_path, {"flows.conf": f"{number}\n"}, "anna", number) is not None

    assert applied_numbers(tmp_path) == list(range(3, KEPT + 3))

"""Open pages read themselves less often while the node is busy."""

from __future__ import annotations

from fractal_rm.web.pages.frame.pace import Pace


def test_a_page_that_takes_long_again_and_again_is_read_less_often_up_to_ten_seconds():
    pace = Pace()

    assert [pace.every_s("runs", 3, took_s) for took_s in (0.02, 0.06, 0.07, 2.0, 2.0)] == [
        3, 3, 6, 7, 10,
    ]  # fmt: skip


def test_one_page_that_takes_long_changes_nothing():
    pace = Pace()

    assert pace.every_s("", 3, 1.0) == 3  # the first page after a start
    assert pace.every_s("", 3, 0.01) == 3
    assert pace.every_s("runs", 2, 1.0) == 2

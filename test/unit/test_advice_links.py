"""Where the page of a run leads to for each advice."""

from __future__ import annotations

import pytest

from fractal_rm.domain.story import Advice
from fractal_rm.web.pages.runs.advice_links import shown_advice

CORRECT = "correct shot.temprature in flows.conf (line 18, when the run began)"


@pytest.mark.parametrize(("line", "may_edit", "path"), [
    (18, True, "config/edit/flows.conf#L18"), (18, False, "config/files/flows.conf#L18"),
    (None, True, "config/edit/flows.conf"),
])  # fmt: skip
def test_a_file_that_is_to_be_corrected_is_opened_at_the_line(line, may_edit, path):
    advice = [Advice(CORRECT, file="flows.conf", line=line)]
    [shown] = shown_advice(advice, may_operate=False, may_edit=may_edit)
    assert (shown.text, shown.path, shown.command) == (CORRECT, path, "")


def test_an_action_is_a_command_for_whoever_may_not_operate():
    advice = [Advice("repeat it", ("runs", "replay", "R"))]
    [shown] = shown_advice(advice, may_operate=False, may_edit=False)
    assert (shown.path, shown.command) == ("", "fractal-rm runs replay R")
    [shown] = shown_advice(advice, may_operate=True, may_edit=False)
    assert shown.path == "runs/R/replay?definition=recorded"

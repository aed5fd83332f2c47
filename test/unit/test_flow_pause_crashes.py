"""A process is killed at each step of pausing a flow: the flow is then paused, or as before."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

import pytest

from fractal_rm.config.control import read_control, store_flow_pause
from fractal_rm.domain.flow_pause import FlowPause

PAUSE = FlowPause("anna", 1_790_000_000_000)
STEPS = ((os, "open"), (os, "fsync"), (os, "fdopen"), (Path, "replace"), (Path, "unlink"))


def kill_at(steps: int) -> None:
    """Let this process be killed at the next call on files after ``steps`` calls."""
    left = [steps]

    def counted(made):
        def call(*args, **keys):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return made(*args, **keys)

        return call

    for owner, name in STEPS:
        setattr(owner, name, counted(getattr(owner, name)))


def change_until_killed(state: Path, pause: FlowPause | None, steps: int) -> bool:
    """Pause or resume flow 1 in a process that is killed after ``steps`` calls on files.

    Returns false if it made fewer calls, and so was not killed.
    """
    child = os.fork()
    if child == 0:
        kill_at(steps)
        try:
            store_flow_pause(state, "1", pause)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked process must not go on with the tests
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("pause", [PAUSE, None])
def test_a_flow_is_paused_or_resumed_once_or_not_at_all(tmp_path, pause):
    steps, killed, found = 0, True, set()
    while killed:
        store_flow_pause(tmp_path, "2", PAUSE)
        before = store_flow_pause(tmp_path, "1", None if pause else PAUSE).paused_flows
        killed = change_until_killed(tmp_path, pause, steps)
        after = read_control(tmp_path).paused_flows
        wanted = {"2": PAUSE} | ({"1": PAUSE} if pause else {})
        assert after in (before, wanted)
        assert killed or after == wanted
        found.add(after == wanted)
        assert store_flow_pause(tmp_path, "1", pause).paused_flows == wanted  # it can be repeated
        steps += 1
    assert found == {True, False}
    assert steps > 5

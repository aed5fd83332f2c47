"""Real nodes: pause, resume, and the release of parked runs."""

from __future__ import annotations

from fractal_rm.domain.state import State
from nodes import wait_until


def test_pause_and_resume_survive_a_restart(make):
    node = make().start()
    assert node.command("pause", "--all").returncode == 0
    wait_until(lambda: "paused" in node.checks()["room"])
    wait_until(lambda: " paused" in node.log)
    run = node.trigger("2").body["run"]
    node.stop()
    node.start()
    wait_until(lambda: "paused" in node.checks()["room"])
    assert node.history.run(run).summary.state is State.ACCEPTED
    assert node.command("resume").returncode == 0
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_a_node_that_starts_paused_begins_no_run(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2").body["run"]
    wait_until(lambda: components.requests)
    assert node.command("pause", "--all").returncode == 0
    node.kill()
    node.start()
    assert node.checks()["room"] == "0 runs in flight, 1 waiting, paused"
    components.answers["/endpoint2"] = (200, "late")
    assert node.command("resume").returncode == 0
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_a_release_command_does_not_release_runs_that_are_parked_later(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make()
    node.edit("comm", recovery__max_age_s=0)
    node.start()
    run = node.trigger("2").body["run"]
    wait_until(lambda: components.requests)
    assert node.command("resume", "--parked").returncode == 0
    wait_until(lambda: "parked_released" in node.log)
    node.kill()
    node.start()
    node.pause()
    assert node.history.run(run).summary.state is State.PARKED
    components.answers["/endpoint2"] = (200, "late")
    assert node.command("resume", "--parked").returncode == 0
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)

"""What can happen to the files of a running node: its journal, its configuration, its log."""

from __future__ import annotations

from nodes import NodeProcess, wait_until


def succeeded(node: NodeProcess) -> str:
    """A trigger that is taken and run to its end: the id of its run."""
    status, _, answer = node.trigger("2", Prefer="wait=30")
    assert (status, answer["state"]) == (200, "succeeded")
    return answer["run"]


# --- the journal -------------------------------------------------------------------------------


def test_a_node_whose_state_folder_was_renamed_acknowledges_nothing_until_it_is_back(make):
    node = make().start()
    acknowledged = [succeeded(node)]
    aside = node.state.with_name("aside")
    node.state.rename(aside)
    for _ in range(20):
        assert node.trigger("2")[0] == 503
    assert not node.check("journal")
    assert node.get("/livez")[0] == 200
    wait_until(lambda: node.log.count("journal_gone") == 1)
    aside.rename(node.state)
    wait_until(lambda: node.check("journal"))
    wait_until(lambda: "journal_writable_again" in node.log)
    acknowledged.append(succeeded(node))
    node.kill()
    node.start()
    assert {run.id for run in node.runs()} == set(acknowledged)
    assert node.problems() == []


def test_a_node_whose_journal_was_deleted_says_so_before_any_trigger_comes(make):
    node = make().start()
    (node.state / "api.journal").unlink()
    wait_until(lambda: not node.check("journal"))
    assert node.get("/readyz")[0] == 503
    assert node.trigger("2")[0] == 503
    assert node.stop() == 0

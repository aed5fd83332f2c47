"""What operators can do with the runs of this process: the port `Actions` for one journal.

node_actions  finds the run of an action, and does one action on a run at a time (`run_locks`)
cancel        ends an open run as cancelled
release       resumes a parked run
repeat        repeats an ended run, or continues it after a decision; sends a dead letter again
discard       marks an ended run or a dead letter
past_runs     reads ended runs
"""

from fractal_rm.engine.actions.node_actions import NodeActions

__all__ = ["NodeActions"]

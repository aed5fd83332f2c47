"""What operators can do with the runs of this process: the port `Actions` for one node.

node_actions  finds the run of an action, and does one action on a run at a time
cancel        ends an open run as cancelled
"""

from fractal_rm.engine.actions.node_actions import NodeActions

__all__ = ["NodeActions"]

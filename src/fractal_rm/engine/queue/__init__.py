"""The queue between acceptance and execution: which run begins next, and when.

`RunQueue` joins the parts: `Capacity` bounds what is accepted, `Order` says who is next, `Slots`
bounds what is in flight, `Permits` keeps LIMIT, `Pace` slows a busy node, `Deferred` has the runs
that want a later turn, and `Ready` hands runs to workers.
"""

from fractal_rm.engine.queue.run_queue import RECHECK_S, RunQueue, Withdrawn

__all__ = ["RECHECK_S", "RunQueue", "Withdrawn"]

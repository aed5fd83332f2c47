"""The queue between acceptance and execution: which run begins next, and when.

`RunQueue` connects these parts: `Capacity` limits the accepted runs, `RunOrder` chooses the next,
`Slots` limits the runs in flight, `Permits` applies LIMIT, `Pace` begins fewer runs on a busy node,
`Deferred` has the runs that wait for a later turn, and `Ready` passes runs to workers.
"""

from fractal_rm.engine.queue.run_queue import RECHECK_S, RunQueue, Withdrawn

__all__ = ["RECHECK_S", "RunQueue", "Withdrawn"]

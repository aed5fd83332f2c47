"""Execute: do what a flow says, step after step, passing results along.

executor     listed or as data flows, within the time that the run has
  calls      one HTTP call: its slot, its tries, what is written of it
  each       FOREACH: a call for each element
  sub_flow   RUN: another flow, as a run of its own
  unnumbered WAIT, PUBLISH, REPLY
  waits      whether a run only waits, as it was told to
  undo       what finished steps did is undone, where a later one failed

Whatever is cancelled or killed goes on from the facts that are written of it.
"""

from fractal_rm.engine.execute.executor import Executor

__all__ = ["Executor"]

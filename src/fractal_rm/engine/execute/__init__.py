"""Execute the steps of a run.

executor     executes the steps, in listed order or as dataflow, before the deadline of the run
  calls      one HTTP call: its slot, its attempts, its facts
  foreach    FOREACH: a call for each element
  sub_flow   RUN: another flow, as a child run
  unnumbered WAIT, PUBLISH, REPLY
  dataflow   ORDER dataflow: concurrent steps
  undo       UNDO: undoes finished steps after a later step has failed
waits        checks whether a run only waits

After a crash, or if its task was cancelled, a run resumes from its facts. `domain.outcome` decides
whether a call is retried; `calls` makes the retries.
"""

from fractal_rm.engine.execute.executor import Executor

__all__ = ["Executor"]

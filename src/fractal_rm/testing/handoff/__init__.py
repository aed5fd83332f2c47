"""A model of the hand-off that is explored exhaustively: every order of messages and faults.

The model has one run, which node A has accepted, and two or three nodes. Each decision in it is a
call of the real function in `domain.handoff`, and each change of a run is `Run.apply`. The model
adds the network, the disks and the faults:

- A message is lost, arrives twice, or arrives late, also after its sender has given up waiting.
- A node is killed. What was not on its disk is lost: its boot, the refusals that it remembers, the
  facts after the last sync. It starts again.
- A node takes no offers for a while: its queue is full, or its disk is full.
- A node is drained. A node loses its state folder. An operator decides about a run in doubt.

A scenario bounds the number of faults (`Faults`). `explore` visits every state of a scenario.
`rules` has the real rules, and deliberate mistakes that the model must find.

Run it with ``make model``.
"""

"""The hand-off of a run from one node to another. Both nodes use this module.

`messages` has what the nodes send, `sender` the decisions of the node that offers a run, and
`receiver` those of the node that gets the offer. Version 2 of the protocol:

    sender                                      receiver
    ──────                                      ────────
    placed on node N
      │  what are you? ───────────────────────> Description: node, store, boot, version
      │ `Offered` is on the disk
      ▼
    offered ──Offer: run, epoch, sender, ─────> has offered this run ──────> refusal `own-run`
      │       store, boot, flow, version,       has the id of the sender ──> refusal `same-node-id`
      │       payload, finished steps,          has this run ──────────────> the same Receipt again
      │       origin, time left                 has another store ─────────> refusal `other-store`
      │                                         has another boot ──────────> refusal `other-boot`
      │                                         has refused this offer ────> refused again
      │                                         draining, paused, busy, … ─> refusal
      │                                         other flow, no such flow ──> refusal
      │                                         `Received` is on the disk ─> Receipt: run, epoch
      │
      ├── Receipt ─────────────> handed off
      ├── NoReceipt ───────────> handed off, if the peer may be an original that has the flow
      ├── OfferRefused ────────> executed here, if the peer has certainly not taken the run;
      │                          after `other-boot`, offered again under a new epoch
      ├── NoAnswer, not sent ──> offered again; executed here after OFFER_TRIES
      └── anything else ───────> in doubt: the peer may have taken the run
            ├── the offer went to a node of this program: the same offer is sent again until the
            │   node answers, or until an operator decides, but only while it is the same node
            └── the offer went to any other peer: the run is never offered again; it is executed
                here as well, or ends as `unknown` (see `after_doubt`)

The *store* of a node is the id of its state folder. If it is another one, the node has lost its
runs, and cannot know which of them it has executed. The *boot* is the id of one start of a node.
An offer is valid for one boot only. So a node that has refused an offer need not write this on its
disk: it remembers the offer until it ends, and then the offer is not valid any more. A refusal
names the run and the epoch, unless the node may have accepted another copy of the offer.

A run moves once. A received run is executed where it is. If that node is drained while the run
waits, the run is returned to its sender, as a continuation (`domain.run_id`), and is executed
there.

A plain peer is not a node of this program; it may be an original. It reads only the flow and the
payload of an offer, so it would execute a run twice if the run were offered twice.
``adapters/peers`` sends offers by HTTP, and ``web/api`` receives them.
"""

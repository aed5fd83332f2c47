"""What each cause means, in one sentence. docs/reference/causes.md says the same."""

from __future__ import annotations

from fractal_rm.domain.cause import Cause

_MEANINGS = {
    Cause.BY_SENDER: "the sender of the trigger chose this node",
    Cause.NO_BALANCER: "no balancer is configured",
    Cause.BALANCER: "the balancer chose the node",
    Cause.BALANCER_FAILED: "the balancer gave no usable answer",
    Cause.UNKNOWN_NODE: "the balancer named a node that is not in nodes.conf",
    Cause.UNFIT_PEER: (
        "the balancer named a node that may run the original Runtime Manager, which cannot "
        "execute this flow"
    ),
    Cause.DRAINED: "the node was drained, so the run was offered to another node",
    Cause.RETURNED: "the node that had the run was drained, and has returned the run",
    Cause.PARENT: (
        "the run was started by a RUN step of another run. In the fact dead: the other run was "
        "set aside"
    ),
    Cause.RECEIPT: "a node of this program has accepted the run",
    Cause.PLAIN_PEER: "another program answered the offer with 2xx",
    Cause.NO_RECEIPT: "the answer was 2xx, but without the required receipt",
    Cause.OFFER_REFUSED: "the other node answered with a status outside 2xx",
    Cause.PEER_UNREACHABLE: "the offer could not be sent",
    Cause.PEER_SILENT: "the offer was sent, but no answer was received",
    Cause.PEER_GONE: "the other node is no longer in nodes.conf",
    Cause.PEER_REPLACED: (
        "at the address of a node of this program, another program answers now, or the node has "
        "lost its state folder"
    ),
    Cause.OPERATOR: (
        "an operator has decided, or has cancelled or repeated the run: see the field actor"
    ),
    Cause.STATUS: "the answer has a status of 300 or more",
    Cause.NOT_EXPECTED: "the answer does not match EXPECT",
    Cause.CONNECT_FAILED: "no connection could be made, so nothing was sent",
    Cause.TIMED_OUT: "the call took longer than its time limit",
    Cause.BAD_REPLY: "the answer is invalid or incomplete: see answers",
    Cause.REPLY_TOO_LARGE: "the answer is larger than max_response_bytes",
    Cause.CALL_FAILED: "there was no answer, for a reason that no other cause names",
    Cause.CIRCUIT_OPEN: (
        "the circuit of the component is open, and enough other calls wait for it. Nothing was sent"
    ),
    Cause.ANSWER_LOST: (
        "a component that is not idempotent was called, and its answer was lost: in a crash, "
        "or, if it has a probe, in any way. The reason has the answer of the probe"
    ),
    Cause.PUBLISH_FAILED: "no broker accepted the message of a PUBLISH",
    Cause.SUB_FLOW: "the run that a RUN started did not succeed",
    Cause.DEADLOCK: (
        "a RUN would wait for a permit (LIMIT) that cannot become free before the run with this "
        "RUN has ended"
    ),
    Cause.CANNOT_EVALUATE: "a reference, template or condition has no value",
    Cause.TOO_MANY_VALUES: "an expression would read more than max_evaluated_values",
    Cause.NOT_CONFIGURED: (
        "the configuration no longer has a component, endpoint or flow that the flow uses"
    ),
    Cause.DEADLINE: "the DEADLINE of the run has passed",
    Cause.STALE: "the run waited for its start longer than STALE allows",
    Cause.SUPERSEDED: (
        "a newer run, for which LATEST selects the same value, was accepted before this run began"
    ),
    Cause.RESTORED: (
        "the run was open in a backup that was restored, and was parked: the node may have "
        "continued it after the backup"
    ),
    Cause.OLD: "the run was older than recovery.max_age_s when the node started, and was parked",
    Cause.ATTEMPTS: (
        "the Runtime Manager crashed recovery.max_attempts times while the run was in flight. "
        "If the fact is parked, the run had also been offered to another node, which may have "
        "accepted it"
    ),
    Cause.UNREADABLE: "the facts of the run cannot be read",
    Cause.INTERNAL: "there is a fault in the Runtime Manager",
    Cause.MALFORMED: "the message is not valid JSON",
    Cause.TOO_LARGE: "the message is larger than max_trigger_bytes",
    Cause.WRONG_CONTENT_TYPE: "the content type of the message is not JSON",
    Cause.WRONG_CONTENT_CODING: "the message is compressed",
    Cause.WRONG_SHAPE: "a key is missing, or has a value of the wrong type",
    Cause.UNKNOWN_FLOW: "flows.conf has no flow with this id",
    Cause.KEY_REUSED: "an earlier message with other content had the same trigger id",
    Cause.OWN_RUN: (
        "the message is a hand-off of a run that this node itself had offered to another node"
    ),
}


def meaning_of(cause: str | None) -> str:
    """What a cause means; empty for none, or for one of a later release."""
    return "" if cause is None else _MEANINGS.get(Cause(cause), "")

"""The meanings of parameters, by their names."""

from __future__ import annotations

IN_PATH = {
    "run_id": "the id of a run, or of a dead letter",
    "flow_id": "the id of a flow: the number in its first line",
    "bulk_id": "the id of an action on many runs",
}
EXAMPLES = {"run_id": "01M872C587MC9CTEMPDVW2QE67", "flow_id": "1", "bulk_id": "5f0c2a9e"}
_TIME = (
    "a time with its zone (`2026-11-29T14:02:00Z`), a duration before now (`90s`, `15m`, `6h`,"
    " `7d`), or milliseconds since 1970"
)
IN_QUERY = {
    "flow": "only runs of this flow",
    "state": "only runs in one of these states; several are separated by commas, or the parameter"
    " is repeated",
    "component": "only runs in trouble that called this component last",
    "cause": "only runs in trouble with this cause",
    "node": "only runs that this other node has; `here`: only runs of this node",
    "source": "only runs from this source: `mqtt`, `rest`, `schedule`, `peer`, `replay`, …",
    "since": f"only runs accepted at or after this time: {_TIME}",
    "until": f"only runs accepted before this time, in the same forms: {_TIME}",
    "text": "only runs in trouble whose reason has this part",
    "handled": "only runs that an operator has repeated or discarded (`true`), or has not",
    "slower_ms": "only runs that have ended, and took at least so many milliseconds from their"
    " acceptance",
    "limit": "at most so many runs; 50 if it is left out",
    "cursor": "the `next` of the page before",
    "hours": "give hours instead of minutes",
    "topics": "the topics of the stream, separated by commas; all if it is left out",
}

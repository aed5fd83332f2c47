"""Words the refusal of an offer for people: the reason that a run and the log have."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.handoff.messages import code_in
from fractal_rm.domain.outcome import MAX_QUOTED_CHARACTERS, response_details
from fractal_rm.domain.pairing import NOT_KNOWN
from fractal_rm.domain.strict_json import read_json_as


class _Problem(msgspec.Struct):
    """The part of problem details (RFC 9457) that is for people."""

    title: str = ""
    detail: str = ""


def refusal_text(node_id: str, reply: HttpResponse) -> str:
    """What a node answered to an offer, if its status is not 2xx.

    If a node of this program answered, this is the detail of its problem document. Otherwise it is
    the status and the start of the body.
    """
    reason = None if code_in(reply.body) is None else _reason_in(reply.body)
    if reason is None:
        return f"node {node_id} answered {reply.status}{response_details(reply)}"
    if reply.status == HTTPStatus.UNAUTHORIZED:
        if reason == NOT_KNOWN:
            reason = "it does not know the token of this node"
        reason += f"; join the two nodes again, or remove node {node_id} here, too"
    return f"node {node_id} refused the run ({reply.status}): {reason}"


def _reason_in(body: bytes) -> str | None:
    """The detail of a problem document, or its title, on one line. None: it has neither."""
    try:
        problem = read_json_as(body, _Problem)
    except msgspec.ValidationError:  # its detail is not a text
        return None
    return " ".join((problem.detail or problem.title)[:MAX_QUOTED_CHARACTERS].split()) or None

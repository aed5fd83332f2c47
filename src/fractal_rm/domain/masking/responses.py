"""Failures whose reasons do not quote the response of a component.

Reasons are in logs and lists, which are read by more people than values are.
"""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.cause import Cause, Failure, ResponseExcerpt
from fractal_rm.domain.flow import Flow


def as_shown(failure: Failure, response: HttpResponse | CallFailed, flow: Flow) -> Failure:
    """The failure of a call. With KEEP or MASK, it does not have the text of the response."""
    if flow.keeping is UNSET or not isinstance(response, HttpResponse):
        return failure
    status = f"status {response.status}"
    reason = failure.reason
    if failure.cause is Cause.STATUS:
        reason = status
    elif failure.cause is Cause.NOT_EXPECTED:
        reason = f"the response is not as expected: {status}"
    return Failure(
        failure.cause,
        reason,
        UNSET if failure.answer is UNSET else ResponseExcerpt(response.status),
    )

"""Errors of the text of a flow: a value, a reference, a condition or a schedule that fails."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


class NoJson(FractalError):
    """A path of a flow has a value or a key in it that JSON cannot say."""

    code = "no-json"


class CannotEvaluate(FractalError):
    """A reference, template or condition of a flow that comes to nothing: the step fails."""

    code = "cannot-evaluate"


class NotConfigured(CannotEvaluate):
    """A flow names what the configuration no longer has."""

    code = "not-configured"


class BadSchedule(FractalError):
    """A CRON expression or a time zone that cannot be read."""

    code = "bad-schedule"

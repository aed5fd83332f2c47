"""Errors of what a flow contains: values, references, conditions and schedules."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


class NotJson(FractalError):
    """A path of a flow has a value or a key that JSON cannot represent."""

    code = "no-json"


class CannotEvaluate(FractalError):
    """A reference, template or condition of a flow cannot be evaluated, so its step fails."""

    code = "cannot-evaluate"


class NotConfigured(CannotEvaluate):
    """A flow names a component, an endpoint or a flow that the configuration no longer has."""

    code = "not-configured"


class BadSchedule(FractalError):
    """A CRON expression or a time zone cannot be read."""

    code = "bad-schedule"

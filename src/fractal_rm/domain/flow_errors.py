"""Errors in values, references, conditions and schedules of flows."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


class NotJson(FractalError):
    """A path in a flow contains a value that JSON cannot represent."""

    code = "no-json"


class CannotEvaluate(FractalError):
    """A reference, a template or a condition cannot be evaluated, so its step fails."""

    code = "cannot-evaluate"


class NotConfigured(CannotEvaluate):
    """A flow names a component, an endpoint or a flow that is no longer in the configuration."""

    code = "not-configured"


class BadSchedule(FractalError):
    """A CRON expression or a time zone cannot be read."""

    code = "bad-schedule"

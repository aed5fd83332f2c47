"""Flows that begin by the clock."""

from fractal_rm.adapters.schedule.service import Schedules

__all__ = ["Schedules"]

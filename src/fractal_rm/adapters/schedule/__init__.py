"""Flows that start at times: `EVERY` and `CRON`."""

from fractal_rm.adapters.schedule.service import Schedules

__all__ = ["Schedules"]

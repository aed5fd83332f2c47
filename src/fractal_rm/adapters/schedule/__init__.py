"""Starts flows at the times of their `EVERY` and `CRON` rules."""

from fractal_rm.adapters.schedule.service import Schedules

__all__ = ["Schedules"]

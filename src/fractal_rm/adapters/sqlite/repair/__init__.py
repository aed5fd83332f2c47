"""`journal repair`: build a new journal from what can be read of a damaged one."""

from fractal_rm.adapters.sqlite.repair.journal import RepairReport, repair

__all__ = ["RepairReport", "repair"]

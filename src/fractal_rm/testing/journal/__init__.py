"""The conformance suite that every journal must pass.

Subclass it, and define how a journal is made and how it ends in a crash:

    class TestMyJournal(JournalConformance):
        def new(self):
            return MyJournal(self.place)

        def crash(self, journal): …
"""

from fractal_rm.testing.journal.adoption import AdoptionTests
from fractal_rm.testing.journal.blocked import BlockedTests
from fractal_rm.testing.journal.duplicates import DuplicateTests
from fractal_rm.testing.journal.durability import DurabilityTests
from fractal_rm.testing.journal.samples import (
    FLOW,
    OTHER_FLOW,
    accepted,
    begun,
    entry,
    write,
    write_behind,
)
from fractal_rm.testing.journal.values import ValueTests

__all__ = ["FLOW", "OTHER_FLOW", "JournalConformance", "accepted", "begun", "entry", "write",
    "write_behind",
]  # fmt: skip


class JournalConformance(DurabilityTests, ValueTests, DuplicateTests, BlockedTests, AdoptionTests):
    """All tests of the suite."""

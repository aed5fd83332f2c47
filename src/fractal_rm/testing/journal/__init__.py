"""The conformance suite that every journal must pass.

Subclass `JournalConformance`, and define the methods that `JournalTests` leaves open:

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
    append_fact,
    begun,
    entry,
    write,
)
from fractal_rm.testing.journal.values import ValueTests

__all__ = [
    "FLOW",
    "OTHER_FLOW",
    "JournalConformance",
    "accepted",
    "append_fact",
    "begun",
    "entry",
    "write",
]  # fmt: skip


class JournalConformance(DurabilityTests, ValueTests, DuplicateTests, BlockedTests, AdoptionTests):
    """All tests of the suite."""

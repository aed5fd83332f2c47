"""What became of the cases of flows: those of flows.cases.toml, run with a text of flows."""

from __future__ import annotations

import msgspec

MAX_CASES = 200  # further cases are only counted
MAX_DIFFERENCES = 20  # of one case
MAX_TEXT = 400  # characters of an expected or actual value


class CaseDifference(msgspec.Struct, frozen=True):
    """One expectation that was not met. ``line`` is that of the expectation, or 0."""

    what: str
    expected: str
    got: str
    line: int = 0


class CaseResult(msgspec.Struct, frozen=True):
    """One case. It passed if there are no differences. ``line`` is where the case begins."""

    name: str
    flow: str
    line: int
    differences: tuple[CaseDifference, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the run met all expectations."""
        return not self.differences


class CaseReport(msgspec.Struct, frozen=True):
    """All cases. ``results`` are those that were run, of ``total``.

    ``fault`` says why the others were not run, such as a time that is over; empty if there are
    none, or if there is no file of cases (``has_file``).
    """

    results: tuple[CaseResult, ...] = ()
    total: int = 0
    fault: str = ""
    has_file: bool = True

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """The cases that did not pass."""
        return tuple(each for each in self.results if not each.passed)

    @property
    def is_well(self) -> bool:
        """Whether all cases were run and passed."""
        return not self.fault and not self.failed


NO_CASES = CaseReport(has_file=False)


class CaseText(msgspec.Struct, frozen=True):
    """A case that was made from a run, as text for flows.cases.toml.

    ``fault`` says why there is none; then ``text`` is empty.
    """

    text: str = ""
    fault: str = ""

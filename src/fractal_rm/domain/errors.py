"""The root of all errors of this program. Adapters map foreign errors to these.

FractalError
├── Refused            a trigger is not accepted          domain/refusals.py
├── CallFailed         a call has no usable answer        domain/call_errors.py
├── OfferRefused       a peer refuses a hand-off          domain/handoff.py
├── PublishFailed      no broker accepts a message        domain/call_errors.py
├── CannotEvaluate     a reference or condition fails     domain/flow_errors.py
├── NoJson             a value has no JSON form           domain/flow_errors.py
├── BadSchedule        a schedule cannot be read          domain/flow_errors.py
├── JournalError       the journal cannot be used         domain/journal_errors.py
└── ConfigRejected     the configuration has errors       domain/findings.py
"""

from __future__ import annotations

from typing import ClassVar


class FractalError(Exception):
    """An error that this program raises on purpose.

    ``code`` is stable and for programs; the text is for people.
    """

    code: ClassVar[str] = "error"

    @property
    def reason(self) -> str:
        """The text for people, without the code."""
        return str(self)

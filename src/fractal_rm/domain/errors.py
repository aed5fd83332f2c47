"""The base class of all errors of this program. Adapters convert errors of libraries to them.

FractalError
├── Refused            a trigger is not accepted          domain/refusals.py
├── CallFailed         a call got no usable response      domain/call_errors.py
├── PublishFailed      no broker accepted a message       domain/call_errors.py
├── CannotEvaluate     an expression cannot be evaluated  domain/flow_errors.py
├── NotJson            a value cannot be JSON             domain/flow_errors.py
├── BadSchedule        a schedule cannot be read          domain/flow_errors.py
├── JournalError       the journal cannot be used         domain/journal_errors.py
└── ConfigRejected     the configuration has errors       domain/findings.py
"""

from __future__ import annotations

from typing import ClassVar


class FractalError(Exception):
    """The base class of the errors that this program raises on purpose.

    ``code`` is for programs and never changes. The text is for people.
    """

    code: ClassVar[str] = "error"

    @property
    def reason(self) -> str:
        """The text for people, without the code."""
        return str(self)

"""The one exception tree. Every error has a stable ``code``; adapters map foreign errors to these.

FractalError
├── Refused            a trigger that we do not take, and why (see the table in the classes)
├── CallFailed         a component, peer or balancer that did not answer as HTTP asks
├── CannotEvaluate     a reference or condition of a flow that comes to nothing
├── JournalError       the journal cannot be opened or written
└── ConfigRejected     configuration files with errors; carries every finding
"""

from __future__ import annotations

from typing import ClassVar


class FractalError(Exception):
    """Anything that this program raises on purpose.

    ``code`` is stable and may be matched by programs; the text is for people.
    """

    code: ClassVar[str] = "error"

    @property
    def reason(self) -> str:
        """The text for people, without the code."""
        return str(self)


# --- a trigger is refused -------------------------------------------------------------------
# One table for every way in. `status` is what REST answers (RFC 9457 problem details).
# `final` says what MQTT does: a final refusal will be refused again however often it is sent, so
# it becomes a dead letter and is acknowledged; any other is left unacknowledged, and the broker
# keeps it.


class Refused(FractalError):
    """A trigger that is not taken."""

    code = "refused"
    status: ClassVar[int] = 400
    title: ClassVar[str] = "Refused"
    final: ClassVar[bool] = True
    retry_after_s: int | None = None


class Malformed(Refused):
    """Not JSON as we read it (see `domain.strict_json`)."""

    code = "malformed"
    status = 400
    title = "The message is not valid JSON"


class TooLarge(Refused):
    """More bytes than ``max_trigger_bytes``."""

    code = "too-large"
    status = 413
    title = "The message is too large"


class WrongContentType(Refused):
    """A content type that is not JSON (REST only)."""

    code = "wrong-content-type"
    status = 415
    title = "The content type must be application/json"


class WrongContentCoding(Refused):
    """A content that is compressed (REST only; RFC 9110, 15.5.16)."""

    code = "wrong-content-coding"
    status = 415
    title = "The content must be sent as it is, without a coding"


class WrongShape(Refused):
    """JSON, but a key is missing or has the wrong type."""

    code = "wrong-shape"
    status = 422
    title = "The message has the wrong shape"


class UnknownFlow(Refused):
    """No flow with this id is in flows.conf."""

    code = "unknown-flow"
    status = 404
    title = "There is no such flow"


class KeyReused(Refused):
    """A trigger id that was used within the window, with other content (G3)."""

    code = "key-reused"
    status = 422
    title = "This trigger id was used for another message"


class OwnRun(Refused):
    """A hand-off of a run that this node itself has offered: it came back to its sender."""

    code = "own-run"
    status = 409
    title = "This run was offered by this node"


class Busy(Refused):
    """Over a bound (G5). Nothing was taken; send again later."""

    code = "busy"
    status = 503
    title = "Too much is waiting"
    final = False

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(Busy):
    """The node is stopping (G6)."""

    code = "draining"
    title = "The node is stopping"


class JournalUnavailable(Busy):
    """The journal cannot be written at the moment, for example on a full disk (G7)."""

    code = "journal-unavailable"
    title = "The journal cannot be written at the moment"


class Broken(Refused):
    """A fault of ours, not of the message: it is kept where a person can see it."""

    code = "internal"
    status = 500
    title = "A fault in the Runtime Manager"


# --- a call to a component, a peer or the balancer fails ------------------------------------


class CallFailed(FractalError):
    """No reply could be had.

    ``sent`` tells whether a byte of the request may have left: only a call that was not sent is
    known not to have had an effect.
    """

    code = "call-failed"

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ConnectFailed(CallFailed):
    """No connection: refused, unreachable, TLS refused, not within the connect limit.

    Or one that was closed before anything was sent on it.
    """

    code = "connect-failed"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class CallTimedOut(CallFailed):
    """The total time limit of the call ended first."""

    code = "timed-out"


class BadReply(CallFailed):
    """The answer is not HTTP/1.1, or it ended early."""

    code = "bad-reply"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class ReplyTooLarge(CallFailed):
    """The answer is larger than ``max_response_bytes``."""

    code = "reply-too-large"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=True)


class NoJson(FractalError):
    """A path of a flow has a value or a key in it that JSON cannot say."""

    code = "no-json"


class CannotEvaluate(FractalError):
    """A reference, template or condition of a flow that comes to nothing: the step fails."""

    code = "cannot-evaluate"


class NotConfigured(CannotEvaluate):
    """A flow names what the configuration no longer has."""

    code = "not-configured"


class PublishFailed(FractalError):
    """No broker took a message: none is connected, or it did not acknowledge in time.

    ``final``: it was refused, and will be refused again.
    """

    code = "publish-failed"

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class BadSchedule(FractalError):
    """A CRON expression or a time zone that cannot be read."""

    code = "bad-schedule"


# --- the journal ----------------------------------------------------------------------------


class JournalError(FractalError):
    """The journal cannot be used. The text names the cause and the cure."""

    code = "journal"


class JournalInUse(JournalError):
    """Another process has it."""

    code = "journal-in-use"


class JournalReadOnly(JournalError):
    """The folder or the file cannot be written."""

    code = "journal-read-only"


class JournalBlocked(JournalError):
    """Nothing was written, and nothing can be for now; it goes on by itself when it can (G7).

    ``why`` and ``cure`` are for people who know which journal it is.
    """

    code = "journal-blocked"
    why = cure = ""


class JournalFull(JournalBlocked):
    """The disk is full."""

    code = "journal-full"
    why = "the disk is full"
    cure = "make room on its disk"


class JournalWithoutFile(JournalFull):
    """No file descriptor is free for the next file of the log."""

    code = "journal-without-file"
    why = "no file descriptor is free"
    cure = "raise `ulimit -n`, or close connections"


class JournalForbidden(JournalFull):
    """The user of this program may not make the next file of the log."""

    code = "journal-forbidden"
    why = "its log's folder may not be written"
    cure = "give the user of this program read and write permission"


class JournalHeld(JournalBlocked):
    """Another program has begun to write into the file, and does not end: somebody's sqlite3."""

    code = "journal-held"
    why = "another program holds its file"
    cure = "end the transaction of that program, or the program"


class JournalGone(JournalBlocked):
    """Its files were moved, deleted or replaced: what is written would not be found again."""

    code = "journal-gone"
    why = "its files are not where they were: moved, deleted or replaced while in use"
    cure = "put them back as they were"


class HistoryDamaged(JournalBlocked):
    """The history cannot be read or written where it must be; the log goes on while it has room."""

    code = "history-damaged"
    why = "its history is damaged"
    cure = "stop the node, run `fractal-rm journal repair`, and start it again"


class JournalDamaged(JournalError):
    """A checksum does not hold, or SQLite cannot read the file (G14)."""

    code = "journal-damaged"


class JournalUnreadable(JournalError):
    """It cannot be read by this user, or where it is. The text names the cause and the cure."""

    code = "journal-unreadable"


class JournalTooNew(JournalError):
    """Written by a newer release (G15)."""

    code = "journal-too-new"


class JournalTooOld(JournalError):
    """Written before the first release."""

    code = "journal-too-old"


class JournalLost(JournalError):
    """An fsync failed: what the disk holds is no longer known, and the process must end (G7)."""

    code = "journal-lost"

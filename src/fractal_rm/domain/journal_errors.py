"""Errors of the journal: it cannot be opened, read or written. Each text names cause and cure."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


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

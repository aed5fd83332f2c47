"""Errors of the journal: it cannot be opened, read or written."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError


class JournalError(FractalError):
    """The journal cannot be used. The text of the error gives the reason and a remedy."""

    code = "journal"


class JournalInUse(JournalError):
    """Another process uses the journal."""

    code = "journal-in-use"


class JournalReadOnly(JournalError):
    """The folder or the file of the journal cannot be written."""

    code = "journal-read-only"


class JournalBlocked(JournalError):
    """The journal cannot be written now. Nothing was written. The node needs no restart.

    ``why`` is the reason and ``cure`` the remedy, for messages that name the journal.
    """

    code = "journal-blocked"
    why = cure = ""


class JournalFull(JournalBlocked):
    """The disk is full."""

    code = "journal-full"
    why = "the disk is full"
    cure = "make room on the disk of the journal"


class JournalNoDescriptor(JournalFull):
    """No file descriptor is free for the next file of the log."""

    code = "journal-without-file"
    why = "no file descriptor is free"
    cure = "raise `ulimit -n`, or close connections"


class JournalForbidden(JournalFull):
    """The user of this program has no permission to create the next file of the log."""

    code = "journal-forbidden"
    why = "the folder of the log cannot be written"
    cure = "give the user of this program read and write permission"


class JournalLocked(JournalBlocked):
    """Another program, such as sqlite3, has an open transaction in the file of the journal."""

    code = "journal-held"
    why = "another program has locked the file of the history"
    cure = "end the transaction in that program, or end that program"


class JournalMoved(JournalBlocked):
    """The files of the journal were moved, deleted or replaced, so new data would be lost."""

    code = "journal-gone"
    why = "the files of the journal were moved, deleted or replaced while in use"
    cure = "put the files back as they were"


class HistoryDamaged(JournalBlocked):
    """The history cannot be read or written. The log can still be written, until it is full."""

    code = "history-damaged"
    why = "the history is damaged"
    cure = "stop the node, run `fractal-rm journal repair`, and start it again"


class JournalDamaged(JournalError):
    """The journal is damaged: a checksum is wrong, or SQLite cannot read the file."""

    code = "journal-damaged"


class JournalUnreadable(JournalError):
    """The user of this program cannot read the journal, or cannot read it in this folder."""

    code = "journal-unreadable"


class JournalTooNew(JournalError):
    """A newer release of this program has written the journal."""

    code = "journal-too-new"


class JournalTooOld(JournalError):
    """The journal was written before the first release of this program."""

    code = "journal-too-old"


class JournalLost(JournalError):
    """An fsync failed, so it is not known what is on the disk. The process must end."""

    code = "journal-lost"

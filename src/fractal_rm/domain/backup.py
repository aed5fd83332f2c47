"""What a backup contains, and what the restored node must not do twice."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import msgspec

from fractal_rm.domain.errors import FractalError

FORMAT = 1
MANIFEST = "manifest.json"

# Files and folders of the state folder, besides the journals, that a backup contains.
IN_BACKUP = (
    "tokens.json", "node-id", "store-id", "mqtt-client-id", "mqtt-topics-*.json", "control.json",
    "clock.json", "schedules.json", "pair", "configs",
)  # fmt: skip
# Files of a backup that are not restored. The store id is that of the lost folder: this one does
# not have all of its runs. Schedules begin anew, so that they do not fire again for the past.
NOT_RESTORED = ("store-id", "schedules.json")
# The parts of journals, and files that only the running processes need.
OF_PROCESSES = (
    "*.journal", "*.journal-wal", "*.journal-shm", "*.log", "*.blobs", "*.lock", "*.sock",
    "*.uncarried.json", "*.resolve.json", "*.moving-to-*", "*.damaged-*", ".*", "*.partial",
    "session.key",
)  # fmt: skip


class BackupFailed(FractalError):
    """A backup was not made, or not restored. The text says why, and what to do."""

    code = "backup-failed"


class BackedUpJournal(msgspec.Struct, frozen=True):
    """The journal ``name`` in a backup: its numbers of runs, and the damage that it has."""

    name: str
    runs: int
    open_runs: int
    problems: list[str] = []


class BackedUpFile(msgspec.Struct, frozen=True):
    """A file of a backup. ``path`` is relative to the backup, with slashes."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The content of a backup. ``made_ms``: everything acknowledged before is in it (wall time)."""

    format: int
    version: str
    made_ms: int
    node: str | None
    journals: list[BackedUpJournal]
    files: list[BackedUpFile]


def belongs_to_backup(name: str) -> bool:
    """Whether a file or folder in the state folder belongs to a backup, besides the journals."""
    return any(fnmatchcase(name, pattern) for pattern in IN_BACKUP)


def is_known(name: str) -> bool:
    """Whether it is decided whether a file in the state folder belongs to a backup."""
    return belongs_to_backup(name) or any(fnmatchcase(name, each) for each in OF_PROCESSES)


def park_reason(made: str) -> str:
    """Why an open run is parked at a restore. ``made`` is the time of the backup as text."""
    return (
        f"restored from a backup of {made}: the node may have continued this run after that, and"
        " may have made its calls"
    )


def notes_after_restore(made: str, parked: int) -> Iterator[str]:
    """Sentences for the operator: what the restored node does not know."""
    yield (
        f"The node is as it was at {made}. It does not know what it accepted, called or sent after"
        " that: a sender that repeats such a trigger starts a second run."
    )
    if parked:
        yield (
            f"{parked} open runs are parked, because the node may have made their calls after the"
            " backup. `fractal-rm runs list --state parked` shows them. `fractal-rm resume --parked"
            " RUN` continues a run: a call that was made may be made again, with the same"
            " Idempotency-Key. `fractal-rm runs cancel RUN` ends it."
        )
    yield (
        "Tokens that were revoked after the backup are valid again: see `fractal-rm token list`."
        " Tokens that were made after it are gone."
    )
    yield (
        "Other nodes see a new state folder (store-id): they do not ask this node about runs that"
        " they have offered to the lost one. Decide these runs there (`fractal-rm runs list"
        " --state offered`)."
    )
    yield "Schedules begin anew: they do not fire for the time before the start."

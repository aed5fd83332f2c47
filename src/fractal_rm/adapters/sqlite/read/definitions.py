"""Read the definition of a flow with which a run began."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fractal_rm.adapters.sqlite.read.snapshot import snapshot
from fractal_rm.domain.flow import Flow, version_of


def recorded_flow(folder: Path, journal: str, version: str) -> Flow | None:
    """Return the flow of this version from a journal of a state folder.

    Returns None if the journal does not have it, or if it is damaged or of a later release.

    Raises JournalError if the journal cannot be read.
    """
    with snapshot(folder / f"{journal}.journal", damage=[]) as db:
        row = db.execute("SELECT body FROM flows WHERE version = ?", (version,)).fetchone()
    if row is None or not isinstance(row[0], bytes) or version_of(row[0]) != version:
        return None
    try:
        return msgspec.json.decode(row[0], type=Flow)
    except (msgspec.DecodeError, RecursionError):
        return None

"""What a repair makes of facts whose blobs are lost: they say so. What no run has is kept aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobFiles, BlobLost, read
from fractal_rm.adapters.log.timed import Ref, Timed, refs_in
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.aside import free_name

_page = msgspec.json.Decoder(list[msgspec.Raw]).decode


def why_lost(files: BlobFiles, ref: Ref) -> str | None:
    """None: it is there, or is known to be gone."""
    if ref.name is not None:
        try:
            read(files, ref)
        except BlobLost as lost:
            return str(lost)
    return None


def with_what_is_there(files: BlobFiles, facts: Iterable[Timed]) -> tuple[list[Timed], list[str]]:
    """Facts as they may stand, and what of them is lost."""
    kept: list[Timed] = []
    said: list[str] = []
    for each in facts:
        why = None if each.ref is None else why_lost(files, each.ref)
        if each.ref is None or why is None:
            kept.append(each)
            continue
        said.append(why)
        gone = msgspec.structs.replace(each.ref, name=None)
        kept.append(msgspec.structs.replace(each, ref=gone))
    return kept, said


def refs_in_page(body: bytes) -> list[Ref]:
    """The blobs that a page refers to, and that are not gone."""
    return [ref for ref in refs_in(_page(body)) if ref.name is not None]


def keep_aside(path: Path, made: sqlite3.Connection) -> str | None:
    """Have a second folder of the blobs that the new history has not: the next start sweeps them.

    Returns it; None: there are none. Raises OSError, sqlite3.Error.
    """
    folder = blob_folder(path)
    known = {name for (name,) in made.execute(statements.BLOB_NAMES)}
    there = FolderBlobs(folder)
    names = [name for name in there.names() if name not in known]
    there.close()
    if not names:
        return None
    aside = free_name(folder)
    kept = FolderBlobs(aside)
    for name in names:
        kept.bring_in(name, folder / name)
    kept.sync(names)
    kept.close()
    return str(aside)

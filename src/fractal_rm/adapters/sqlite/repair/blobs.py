"""Repair facts whose blobs are lost, and keep the blobs that no run of the new history has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.log.timed import Ref, Timed, refs_in
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.repair.files import free_name
from fractal_rm.adapters.sqlite.verify.blobs import why_lost

_page = msgspec.json.Decoder(list[msgspec.Raw]).decode


def without_lost_blobs(files: BlobFiles, facts: Iterable[Timed]) -> tuple[list[Timed], list[str]]:
    """Facts in which references to lost blobs are marked as lost, and why each is lost."""
    kept: list[Timed] = []
    lost: list[str] = []
    for each in facts:
        why = None if each.ref is None else why_lost(files, each.ref)
        if each.ref is None or why is None:
            kept.append(each)
            continue
        lost.append(why)
        marked = msgspec.structs.replace(each.ref, name=None)
        kept.append(msgspec.structs.replace(each, ref=marked))
    return kept, lost


def refs_in_page(body: bytes) -> list[Ref]:
    """The references of a page to blobs that are not marked as lost."""
    return [ref for ref in refs_in(_page(body)) if ref.name is not None]


def keep_unused(path: Path, made: sqlite3.Connection) -> str | None:
    """Copy blobs that the new history does not have to a folder: the next start deletes them.

    Returns the folder; None if there are none. Raises OSError, sqlite3.Error.
    """
    folder = blob_folder(path)
    known = {name for (name,) in made.execute(statements.BLOB_NAMES)}
    existing = FolderBlobs(folder)
    names = [name for name in existing.names() if name not in known]
    existing.close()
    if not names:
        return None
    kept_as = free_name(folder)
    kept = FolderBlobs(kept_as)
    for name in names:
        kept.link_or_copy(name, folder / name)
    kept.sync(names)
    kept.close()
    return str(kept_as)

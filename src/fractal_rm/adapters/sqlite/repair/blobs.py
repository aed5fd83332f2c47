"""During a repair: mark lost blobs in the facts, and keep copies of blobs that are not used."""

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
from fractal_rm.adapters.sqlite.verify.blobs import loss_reason

_page = msgspec.json.Decoder(list[msgspec.Raw]).decode


def without_lost_blobs(files: BlobFiles, facts: Iterable[Timed]) -> tuple[list[Timed], list[str]]:
    """Mark lost blobs in facts. Returns the facts, and a message about each lost blob."""
    marked: list[Timed] = []
    reasons: list[str] = []
    for each in facts:
        reason = None if each.ref is None else loss_reason(files, each.ref)
        if each.ref is None or reason is None:
            marked.append(each)
            continue
        reasons.append(reason)
        without_name = msgspec.structs.replace(each.ref, name=None)
        marked.append(msgspec.structs.replace(each, ref=without_name))
    return marked, reasons


def refs_in_page(body: bytes) -> list[Ref]:
    """Return the references of a page to blobs, without blobs that are marked as lost."""
    return [ref for ref in refs_in(_page(body)) if ref.name is not None]


def keep_unused(path: Path, new: sqlite3.Connection) -> str | None:
    """Copy the blobs that the new history does not use to a separate folder.

    The next start deletes the originals. Returns the path of the separate folder; None if there are
    no such blobs. Raises OSError, sqlite3.Error.
    """
    folder = blob_folder(path)
    used_names = {name for (name,) in new.execute(statements.BLOB_NAMES)}
    existing = FolderBlobs(folder)
    names = [name for name in existing.names() if name not in used_names]
    existing.close()
    if not names:
        return None
    kept_as = free_name(folder)
    copies = FolderBlobs(kept_as)
    for name in names:
        copies.link_or_copy(name, folder / name)
    copies.sync(names)
    copies.close()
    return str(kept_as)

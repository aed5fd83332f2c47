"""Reads the facts of a run without reading its large values: they may have hundreds of MB."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobLost, read, verified_pieces
from fractal_rm.adapters.log.timed import Ref, Timed, restore_value
from fractal_rm.adapters.sqlite.format.page_chain import valid_timed_facts
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.format.statements import READ_PAGES_OF_RUN
from fractal_rm.adapters.sqlite.read.open_runs import keeping_of
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Keep, KeepSettings
from fractal_rm.domain.masking.beginning import BEGIN_BYTES, with_beginning
from fractal_rm.domain.masking.facts import masked
from fractal_rm.engine.ports import TimedFact

Facts = tuple[list[TimedFact], Union[str, None]]  # and why some are missing


class StoredFacts(msgspec.Struct, frozen=True):
    """The facts of a run, whose large values are not read yet.

    ``keeping``: what the flow of the run keeps. ``problem``: why some facts are missing.
    """

    facts: list[Timed]
    keeping: KeepSettings | UnsetType
    problem: str | None = None

    @classmethod
    def of(cls, db: sqlite3.Connection, row: RunRow) -> StoredFacts:
        """Read them from the history. There are none if they were dropped because of their age."""
        if not row.pages:
            return cls([], UNSET)
        pages = db.execute(READ_PAGES_OF_RUN, (row.no,))
        facts, problem = valid_timed_facts(row.id, pages, row.pages, row.chain)
        return cls(facts, keeping_of(db, facts[0].fact if facts else None), problem)


ReadFacts = Callable[[StoredFacts, Path], Facts]


def read_facts(stored: StoredFacts, path: Path) -> Facts:
    """The facts of a run, and the reason if facts or values are missing (otherwise None).

    Values that the flow of the run does not keep are hidden, even if the history still has them.
    """
    files = FolderBlobs(blob_folder(path))

    def read_one(_index: int, each: Timed) -> AnyFact:
        return masked(restore_value(each, lambda ref: read(files, ref)), stored.keeping)

    return _read_each(stored, read_one)


def _read_each(stored: StoredFacts, read_one: Callable[[int, Timed], AnyFact]) -> Facts:
    problem, facts = stored.problem, list[TimedFact]()
    for index, each in enumerate(stored.facts):
        try:
            fact = read_one(index, each)
        except BlobLost as error:
            fact, problem = masked(each.fact, stored.keeping), problem or str(error)
        facts.append(TimedFact(each.at_ms, fact))
    return facts, problem


class OutlineReader:
    """Reads facts with the beginnings of large values; the value number ``whole`` completely.

    ``sizes`` has the size of each value of which only the beginning was read, by the number of its
    fact.
    """

    def __init__(self, whole: int | None = None) -> None:
        self.sizes: dict[int, int] = {}
        self._whole = whole

    def __call__(self, stored: StoredFacts, path: Path) -> Facts:
        """The same as `read_facts`, without the rest of large values."""
        self.sizes.clear()
        files = FolderBlobs(blob_folder(path))
        return _read_each(
            stored, lambda index, each: self._fact(files, index, each, stored.keeping)
        )

    def _fact(
        self, files: FolderBlobs, index: int, timed: Timed, keeping: KeepSettings | UnsetType
    ) -> AnyFact:
        ref = timed.ref
        if ref is None:
            return masked(timed.fact, keeping)
        is_changed = keeping is not UNSET and (bool(keeping.mask) or keeping.keep is not Keep.ALL)
        if not is_changed and index != self._whole:
            start = b"".join(islice(verified_pieces(files, ref), 1))
            self.sizes[index] = ref.size
            return with_beginning(timed.fact, ref.field, start, ref.size)
        fact = masked(restore_value(timed, lambda each: read(files, each)), keeping)
        return fact if index == self._whole else self._shortened(index, fact, ref)

    def _shortened(self, index: int, fact: AnyFact, ref: Ref) -> AnyFact:
        """The fact with the beginning of its value, if what is kept of the value is long."""
        value = getattr(fact, ref.field)
        if value is UNSET or len(value) <= BEGIN_BYTES:
            return fact
        self.sizes[index] = len(value)
        return with_beginning(fact, ref.field, bytes(value), len(value))

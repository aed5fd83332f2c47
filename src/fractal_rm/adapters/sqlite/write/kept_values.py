"""Drops the values that flows do not keep (KEEP, MASK), when their ended runs are copied."""

from __future__ import annotations

import sqlite3
from collections import ChainMap
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from fractal_rm.adapters.log.blobs import BlobFiles, read
from fractal_rm.adapters.log.kept_values import kept_facts
from fractal_rm.adapters.log.run_updates import RunUpdate, RunUpdates
from fractal_rm.adapters.log.timed import Ref, Timed, decode_page
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.page_chain import (
    chain_start,
    encode_page,
    page_checksum,
    valid_timed_facts,
)
from fractal_rm.adapters.sqlite.format.schema import PAGE_BITS
from fractal_rm.adapters.sqlite.write.last_pages import LastPage
from fractal_rm.adapters.sqlite.write.purge import drop_blob_rows
from fractal_rm.adapters.sqlite.write.run_rows import blob_rows

GetLastPages = Callable[[], Mapping[str, LastPage]]


class KeptValues:
    """Use one for each history. All methods can be repeated after a rollback."""

    def __init__(self, db: sqlite3.Connection, blobs: BlobFiles) -> None:
        self._db = db
        self._read_blob = partial(read, blobs)
        self._unused: set[str] = set()  # blobs to delete after the commit

    def drop_values(self, updates: RunUpdates, last_pages: GetLastPages) -> GetLastPages:
        """Drop values of the ended runs of ``updates``, and of their pages in the history.

        Call it in a transaction. Returns the last pages after this change. Raises sqlite3.Error.
        """
        changed: dict[str, LastPage] = {}
        for update in updates.ended.values():
            if update.keeping is msgspec.UNSET or update.page is None:
                continue
            if update.new is None:
                last_page = last_pages().get(update.run_id)
                if last_page is not None:
                    changed[update.run_id] = self._drop_earlier_values(update, last_page)
            self._drop_values_of(update)
        return (lambda: ChainMap(changed, dict(last_pages()))) if changed else last_pages

    def take_unused_blobs(self) -> set[str]:
        """The names of the blobs that are not needed after the commit. Forgets them."""
        unused, self._unused = self._unused, set()
        return unused

    def _drop_values_of(self, update: RunUpdate) -> None:
        body = update.body()
        try:
            facts = decode_page(body)
        except (msgspec.MsgspecError, RecursionError):
            return  # facts of another release
        kept, unused = self._kept(facts, update)
        if kept is not facts:
            update.page = encode_page([each.as_tuple for each in kept])
            update.refs = tuple(ref for ref in update.refs if ref not in unused)

    def _drop_earlier_values(self, update: RunUpdate, last_page: LastPage) -> LastPage:
        """Rewrite the pages that the history has of a run. Returns its new last page."""
        no, page_count, last_checksum = last_page
        pages = self._db.execute(statements.READ_PAGES_OF_RUN, (no,)).fetchall()
        chain, rows = chain_start(update.run_id), list[tuple[int, bytes, int]]()
        facts, problem = valid_timed_facts(update.run_id, pages, page_count, last_checksum)
        if problem is not None:
            return last_page
        kept, unused = self._kept(facts, update)
        if kept is facts:
            return last_page
        at = 0
        for n, body, _ in pages:
            count = len(decode_page(body))
            new_body = encode_page([each.as_tuple for each in kept[at : at + count]])
            at += count
            chain = page_checksum(chain, n, new_body)
            rows.append((no << PAGE_BITS | n, new_body, chain))
        self._db.execute(statements.DROP_PAGES_OF_RUN, (no,))
        execute_bulk(self._db, statements.INSERT_PAGES, rows)
        if unused:
            _ = drop_blob_rows(self._db, [no])
            refs = [each.ref for each in kept if each.ref is not None]
            execute_bulk(self._db, statements.INSERT_BLOBS, blob_rows(no, refs))
            size = sum(ref.size for ref in refs if ref.name is not None)
            self._db.execute(statements.ADD_TO_META, {"name": "blob_bytes", "amount": size})
        return no, page_count, chain

    def _kept(self, facts: list[Timed], update: RunUpdate) -> tuple[list[Timed], list[Ref]]:
        """Return the facts as they are kept: the same list if nothing changes."""
        if update.keeping is msgspec.UNSET:
            return facts, []
        kept, unused = kept_facts(facts, update.keeping, self._read_blob)
        self._unused |= {ref.name for ref in unused if ref.name is not None}
        if all(new is old for new, old in zip(kept, facts, strict=True)):
            return facts, []
        return kept, unused

"""What a disk does to a history: a bit that flips, a page that is zeroed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from test_history_kills import write_runs

from fractal_rm.adapters.sqlite import check_journal
from fractal_rm.domain.errors import JournalError

ROW_TABLES = ("runs", "pages", "keys", "flows", "meta", "faults", "spans")


def all_of(path: Path) -> str | None:
    """Every value, with its type; None: it cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.text_factory = bytes
            return repr([
                db.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
                for name in (*ROW_TABLES, "sqlite_master")
            ])  # fmt: skip
    except (sqlite3.Error, UnicodeDecodeError):  # the text of an error may be damaged, too
        return None


async def test_a_bit_that_flips_in_any_row_is_found(tmp_path):
    await write_runs(tmp_path)
    path = tmp_path / "up.journal"
    good, whole = path.read_bytes(), all_of(path)
    assert check_journal(path).problems == []
    missed, harmful = [], 0
    for at in range(0, len(good), 41):
        flipped = bytearray(good)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        if all_of(path) == whole:
            continue  # in what no row is in
        harmful += 1
        try:
            found = check_journal(path).problems
        except JournalError:
            continue
        if not found:
            missed.append(at)
    assert harmful > 100
    assert missed == []

"""Fixtures for tests of journals: observed connections, a lock on the history, a small disk."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing

import pytest


class WatchedConnection(sqlite3.Connection):
    """Calls ``before`` with each statement, before it is executed."""

    before = staticmethod(lambda _: None)

    def execute(self, statement, *values):
        self.before(statement)
        return super().execute(statement, *values)

    def executemany(self, statement, *values):
        self.before(statement)
        return super().executemany(statement, *values)


@pytest.fixture
def connections(monkeypatch) -> list[WatchedConnection]:
    """The connections that were opened since the test began, in order.

    A journal opens a connection for writing, then a connection for reading.
    """
    opened, connect = [], sqlite3.connect

    def watched(*args, **options):
        opened.append(connect(*args, factory=WatchedConnection, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", watched)
    return opened


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 1 MiB. If mounting is not permitted, the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small disk: only root may mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def other_connection(tmp_path, monkeypatch):
    """A connection of another program, which can lock the history.

    The journal does not wait for the lock.
    """
    monkeypatch.setattr("fractal_rm.adapters.sqlite.write.file.WAIT_S", 0)
    with closing(
        sqlite3.connect(tmp_path / "up.journal", isolation_level=None)
    ) as other_connection:
        yield other_connection

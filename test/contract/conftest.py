"""Fixtures for tests of journals: watched connections, a lock on the history, a small disk."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing

import pytest


class WatchedConnection(sqlite3.Connection):
    """Calls ``before_statement`` with each statement before the statement is executed."""

    before_statement = staticmethod(lambda _: None)

    def execute(self, statement, *values):
        self.before_statement(statement)
        return super().execute(statement, *values)

    def executemany(self, statement, *values):
        self.before_statement(statement)
        return super().executemany(statement, *values)


@pytest.fixture
def connections(monkeypatch) -> list[WatchedConnection]:
    """The connections that were all_connections since the test began, in order.

    A journal opens two connections: first one for writing, then one for reading.
    """
    all_connections, connect = [], sqlite3.connect

    def watched(*args, **options):
        all_connections.append(connect(*args, factory=WatchedConnection, **options))
        return all_connections[-1]

    monkeypatch.setattr(sqlite3, "connect", watched)
    return all_connections


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
    """A connection to the history, as another program has it. It can lock the history.

    If it is locked, the journal does not wait.
    """
    monkeypatch.setattr("fractal_rm.adapters.sqlite.write.file.WAIT_S", 0)
    with closing(
        sqlite3.connect(tmp_path / "up.journal", isolation_level=None)
    ) as other_connection:
        yield other_connection

"""Limits the number of open files of a process, for tests."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager

# A command prefix. The command after it can open at most 256 files.
MAY_OPEN_FEW = ["prlimit", "--nofile=256"]


@contextmanager
def open_files_limited(pid: int, limit: int):
    """Limit a process to file descriptors with numbers below ``limit``, until the end of the block.

    Files that are open already stay open.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def no_descriptor_free(pid: int | None = None):
    """A context manager in which this process, or the process ``pid``, cannot open files."""
    return open_files_limited(os.getpid() if pid is None else pid, 0)

"""Limits of open files for tests."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager

MAY_OPEN_FEW = ["prlimit", "--nofile=256"]  # written before the command of a node


@contextmanager
def open_files_limited(pid: int, limit: int):
    """Limit a process to descriptors with numbers below ``most``; open ones stay open."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def no_descriptor_free(pid: int | None = None):
    """Leave no file descriptor free in a process; without ``pid``, in this process."""
    return open_files_limited(os.getpid() if pid is None else pid, 0)

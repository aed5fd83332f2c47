"""Processes that may open no more files."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager

MAY_OPEN_FEW = ["prlimit", "--nofile=256"]  # before the command of a node


@contextmanager
def open_files_limited(pid: int, most: int):
    """A process has so many file descriptors, numbered from 0; those that are open stay so."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def no_descriptor_free(pid: int | None = None):
    """None is free in a process, or in this one."""
    return open_files_limited(os.getpid() if pid is None else pid, 0)

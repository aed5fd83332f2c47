"""The files by which `runs resolve` asks a running node to decide a run that is in doubt.

Each request is a file in the state folder, because several processes may use this folder and only
one of them has the run. This process takes the request: it deletes the file, then acts. If no
process takes the request, the command deletes it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

SUFFIX = ".resolve.json"
# A request is valid for this time. An older file was left behind by a command that was killed.
VALID_MS = 60_000


class RequestNotWritten(FractalError):
    """The file of a request cannot be written or deleted. The text gives a remedy."""

    code = "decision-not-written"


class DecisionRequest(msgspec.Struct, frozen=True):
    """What an operator decides about a run. ``actor`` is the user who ran the command.

    ``at_ms`` is the wall time of the request, in milliseconds since 1970.
    """

    run: str
    decision: Decision
    actor: str
    at_ms: int

    def is_valid(self, now_ms: int) -> bool:
        """Whether the request is new. A clock that was set back makes a request invalid, too."""
        return abs(now_ms - self.at_ms) <= VALID_MS


def write_request(state: Path, request: DecisionRequest) -> None:
    """Write the file of a request. Raises RequestNotWritten."""
    try:
        replace_file(_path(state, request.run), msgspec.json.encode(request))
    except OSError as error:
        raise _not_written(_path(state, request.run), error) from error


def is_waiting(state: Path, run_id: str) -> bool:
    """Whether no process has taken the request about a run yet."""
    return _path(state, run_id).exists()


def take_request(state: Path, run_id: str) -> bool:
    """Delete the file of a request. Returns False if another process has done this.

    Raises RequestNotWritten.
    """
    try:
        _path(state, run_id).unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _not_written(_path(state, run_id), error) from error
    return True


def waiting_runs(state: Path) -> Iterator[str]:
    """The ids of the runs that have a request. Raises OSError."""
    for path in state.iterdir():
        if path.name.endswith(SUFFIX):
            yield path.name.removesuffix(SUFFIX)


def read_request(state: Path, run_id: str) -> DecisionRequest | None:
    """Read a request. Return None if there is none, or if its content is not valid.

    Raises OSError if the file cannot be read.
    """
    try:
        request = read_json_as(read_regular(_path(state, run_id)), DecisionRequest)
    except (FileNotFoundError, Malformed, msgspec.ValidationError):
        return None
    return request if request.run == run_id else None


def _path(state: Path, run_id: str) -> Path:
    return state / f"{run_id}{SUFFIX}"


def _not_written(path: Path, error: OSError) -> RequestNotWritten:
    remedy = "run this command as the user of the node"
    if error.errno == errno.ENOSPC:
        remedy = "make room on the disk"
    return RequestNotWritten(f"{path} cannot be written: {error.strerror or error}; {remedy}")

"""The file in which a running node reports its unhandled open runs, for `audit`.

An unhandled run is open, but no process executes it. The journal does not show this: a run that
waits writes no facts either. The file exists only while there are unhandled runs, and each start of
the node deletes it. A node that hangs does not write the file; `livez` detects such a node.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

SUFFIX = ".uncarried.json"


def write_unhandled_runs(state: Path, journal: str, run_ids: Collection[str]) -> None:
    """Write the ids of the unhandled runs of a journal. Without such runs, delete the file.

    Raises OSError.
    """
    path = state / f"{journal}{SUFFIX}"
    if run_ids:
        replace_file(path, msgspec.json.encode(sorted(run_ids)))
    else:
        path.unlink(missing_ok=True)


def read_unhandled_runs(state: Path, journal: str) -> list[str]:
    """Return the ids in the file. Return [] if the file does not exist.

    Raises OSError, and Malformed if the file does not contain a list of ids.
    """
    path = state / f"{journal}{SUFFIX}"
    try:
        return read_json_as(read_regular(path), list[str])
    except FileNotFoundError:
        return []
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None

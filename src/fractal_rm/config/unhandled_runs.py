"""The file in which a running node reports its unhandled open runs, for `audit`.

An unhandled run cannot be recognized in the journal: a run that waits does not write facts either.
The file exists only while there are unhandled runs, and each start of the node removes it. A node
that hangs does not write the file; `livez` detects such a node.
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
    """Write the unhandled runs of a journal; delete the file if there are none. Raises OSError."""
    path = state / f"{journal}{SUFFIX}"
    if run_ids:
        replace_file(path, msgspec.json.encode(sorted(run_ids)))
    else:
        path.unlink(missing_ok=True)


def read_unhandled_runs(state: Path, journal: str) -> list[str]:
    """Return the runs in the file. Raises OSError; Malformed if the file is not a list of ids."""
    path = state / f"{journal}{SUFFIX}"
    try:
        return read_json_as(read_regular(path), list[str])
    except FileNotFoundError:
        return []
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None

"""The file in which a running node reports its unhandled open runs, for `audit`.

The journal cannot show them: a waiting run writes nothing either. The file exists only while there
are unhandled runs, and a start removes it. A node that hangs does not write it: `livez` is for
that.
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
    """Report the unhandled runs of a journal; remove the file if there are none. Raises OSError."""
    path = state / f"{journal}{SUFFIX}"
    if run_ids:
        replace_file(path, msgspec.json.encode(sorted(run_ids)))
    else:
        path.unlink(missing_ok=True)


def read_unhandled_runs(state: Path, journal: str) -> list[str]:
    """The runs in the last report. Raises OSError, and Malformed if it is not a list of ids."""
    path = state / f"{journal}{SUFFIX}"
    try:
        return read_json_as(read_regular(path), list[str])
    except FileNotFoundError:
        return []
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None

"""What a running node says of runs that it has and nobody carries, for `audit`: a small file.

The journal cannot know: a run that waits for its turn writes nothing meanwhile either. The file is
there only while there are such runs, and a start takes it away. Where a node hangs as a whole,
nobody writes it: that is what `livez` is for.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

SUFFIX = ".uncarried.json"


def write_uncarried(state: Path, journal: str, run_ids: Collection[str]) -> None:
    """Say which runs of a journal nobody carries; none: take the file away. Raises OSError."""
    path = state / f"{journal}{SUFFIX}"
    if run_ids:
        replace_file(path, msgspec.json.encode(sorted(run_ids)))
    else:
        path.unlink(missing_ok=True)


def read_uncarried(state: Path, journal: str) -> list[str]:
    """What was written last. Raises OSError, and Malformed where it is no list of ids."""
    path = state / f"{journal}{SUFFIX}"
    try:
        return read_json_as(read_regular(path), list[str])
    except FileNotFoundError:
        return []
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None

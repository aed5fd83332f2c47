"""Load the cases of a folder, run them, and judge them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from fractal_rm.cases.judge import Difference, differences
from fractal_rm.cases.model import Case
from fractal_rm.cases.play import play
from fractal_rm.cases.read import FILE, read_cases
from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import finding_code, read_regular
from fractal_rm.domain.findings import ConfigRejected, Finding, Place


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on one case: it passed if nothing differs."""

    name: str
    flow: str
    line: int
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.differences


def load_cases(folder: Path, config: Config) -> list[Case]:
    """The cases of a configuration folder. Raises ConfigRejected, also where there is no file."""
    return read_cases(text_of(folder / FILE), config)


def text_of(path: Path) -> str:
    """The text of a file of cases. Raises ConfigRejected where it cannot be read."""
    try:
        return read_regular(path).decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        place = Place(error.object.count(b"\n", 0, error.start) + 1, 1)
        found = Finding(path.name, place, "T301", f"byte {error.start} is not UTF-8")
    except OSError as error:
        what = f"{path}: {error.strerror or error}"
        found = Finding(path.name, Place(), finding_code(error, "C201"), what, _WRITE)
    raise ConfigRejected([found])


_WRITE = "docs/how-to/test-flows.md starts one; `fractal-rm runs record RUN` writes a case"


def select_cases(cases: Sequence[Case], parts: Collection[str]) -> list[Case]:
    """The cases whose names hold one of ``parts``, in upper or lower case; all without parts."""
    if not parts:
        return list(cases)
    return [c for c in cases if any(part.lower() in c.name.lower() for part in parts)]


def run_case(case: Case, config: Config) -> Verdict:
    """Run one case."""
    found = differences(case, play(case, config))
    return Verdict(case.name, case.flow, case.line, tuple(found))

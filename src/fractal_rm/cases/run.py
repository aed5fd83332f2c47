"""Loads the cases of a folder, runs them, and gives verdicts."""

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
    """The verdict on one case. It passed if there are no differences."""

    name: str
    flow: str
    line: int
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether the run met all expectations."""
        return not self.differences


def load_cases(folder: Path, config: Config) -> list[Case]:
    """Load the cases of a configuration folder.

    Raises ConfigRejected if the file has errors or does not exist.
    """
    return read_cases(read_text(folder / FILE), config)


def read_text(path: Path) -> str:
    """Read the text of a file of cases. Raises ConfigRejected if it cannot be read."""
    try:
        return read_regular(path).decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        place = Place(error.object.count(b"\n", 0, error.start) + 1, 1)
        finding = Finding(path.name, place, "T301", f"byte {error.start} is not UTF-8")
    except OSError as error:
        text = f"{path}: {error.strerror or error}"
        finding = Finding(path.name, Place(), finding_code(error, "C201"), text, _HINT)
    raise ConfigRejected([finding])


_HINT = "see docs/how-to/test-flows.md; `fractal-rm runs record RUN` writes a case"


def select_cases(cases: Sequence[Case], parts: Collection[str]) -> list[Case]:
    """The cases whose names contain one of ``parts``. Capital and small letters are equal.

    If ``parts`` is empty, all cases.
    """
    if not parts:
        return list(cases)
    return [case for case in cases if any(part.lower() in case.name.lower() for part in parts)]


def run_case(case: Case, config: Config) -> Verdict:
    """Run one case, and compare its run with the expectations."""
    played = play(case, config)
    return Verdict(case.name, case.flow, case.line, tuple(differences(case, played)))

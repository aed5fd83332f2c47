"""Compares configurations: those that were applied, the one in force, and the files on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from pathlib import Path

import msgspec

from fractal_rm.config.applied import NotKept, applied_numbers, read_applied
from fractal_rm.config.compile import FILES, digests_of
from fractal_rm.config.load import load, read_file
from fractal_rm.domain.findings import ConfigRejected, Finding


class Past(msgspec.Struct, frozen=True):
    """A configuration that was applied, without its texts.

    ``changed`` has the files that differ from the configuration before; empty if that one is not
    kept. ``fault`` says why this one cannot be read.
    """

    number: int
    at_ms: int = 0
    by: str = ""
    changed: tuple[str, ...] = ()
    digests: Mapping[str, str] = {}
    fault: str = ""


def past_configurations(state: Path) -> list[Past]:
    """The configurations that are kept, the newest first. Raises NotKept."""
    rows: list[Past] = []
    before: Mapping[str, str] = {}
    for number in applied_numbers(state):
        try:
            applied = read_applied(state, number)
        except NotKept as error:
            rows.append(Past(number, fault=error.reason))
            continue
        digests = digests_of(applied.files)
        changed = changed_files(digests, before) if before else ()
        rows.append(Past(number, applied.at_ms, applied.by, changed, digests))
        before = digests
    return rows[::-1]


def newest_number(state: Path) -> int:
    """The number of the newest configuration. Raises NotKept."""
    numbers = applied_numbers(state)
    if not numbers:
        raise NotKept("no configuration is kept: no node has used one yet")
    return numbers[-1]


def previous_number(state: Path, newest: int) -> int:
    """The number of the configuration before ``newest``. Raises NotKept."""
    earlier = [number for number in applied_numbers(state) if number < newest]
    if not earlier:
        raise NotKept("there is no earlier configuration to which the node can go back")
    return earlier[-1]


def texts_on_disk(folder: Path) -> dict[str, str]:
    """The texts of the files. A file that cannot be read counts as empty."""
    texts = {file: read_file(folder / file) for file in FILES}
    return {file: "" if isinstance(text, Finding) else text for file, text in texts.items()}


def findings_on_disk(folder: Path, now_ms: int) -> list[Finding]:
    """All findings of the files if they have errors; otherwise none."""
    try:
        _ = load(folder, os.environ, now_ms)
    except ConfigRejected as error:
        return error.findings
    return []


def changed_files(texts: Mapping[str, str], others: Mapping[str, str]) -> tuple[str, ...]:
    """The files whose texts (or digests) differ, in the order of `FILES`."""
    return tuple(file for file in FILES if texts.get(file, "") != others.get(file, ""))


def difference(file: str, old: str, new: str, label: str, new_label: str = "files") -> list[str]:
    """How two texts of a file differ, as lines of a unified diff. Empty if they are equal."""
    return list(_difference(file, old, new, label, new_label))


def _difference(file: str, old: str, new: str, label: str, new_label: str) -> Iterator[str]:
    lines = old.splitlines(), new.splitlines()
    if old != new and lines[0] == lines[1]:
        yield f"{file}: only the ends of lines differ"
        return
    yield from unified_diff(*lines, f"{label}/{file}", f"{new_label}/{file}", lineterm="")

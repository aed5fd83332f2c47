"""The text of one flow in flows.conf, as it is in force."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import msgspec

from fractal_rm.config.applied import NotKept, applied_numbers, read_applied
from fractal_rm.config.compile import digests_of
from fractal_rm.config.load import read_file
from fractal_rm.config.model import Config
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.masking.flow_text import masked_flow_line
from fractal_rm.flowlang.scan import text_lines

FILE = "flows.conf"


class SourceLine(msgspec.Struct, frozen=True):
    """A line of flows.conf. ``number`` counts from 1. Secrets in the text are masked."""

    number: int
    text: str


def flows_text_in_force(config: Config) -> str | None:
    """The text of flows.conf from which the flows of a configuration were compiled.

    It is the file on the disk, or that of the newest configuration that was applied. None: it is
    neither, for example because the disk was full when the file was changed. Reads the disk.
    """
    wanted = config.file_digests.get(FILE)
    texts = _candidates(config)
    return next((text for text in texts if digests_of({FILE: text})[FILE] == wanted), None)


def _candidates(config: Config) -> Iterator[str]:
    on_disk = read_file(Path(config.folder) / FILE)
    if isinstance(on_disk, str):
        yield on_disk
    state = Path(config.state_path)
    try:
        newest = applied_numbers(state)[-1:]
        for number in newest:
            yield read_applied(state, number).files.get(FILE, "")
    except NotKept:
        return


def lines_of_flow(text: str, flow: Flow) -> list[SourceLine]:
    """The lines of a flow in the text of flows.conf. An empty line ends a flow."""
    lines = text_lines(text)[flow.line - 1 :]
    own = takewhile(str.strip, lines)
    return [SourceLine(at, masked_flow_line(line)) for at, line in enumerate(own, flow.line)]

"""Whether the files of the configuration have changed since they were applied, and why not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from fractal_rm.config.applied import NotKept, applied_numbers
from fractal_rm.config.compile import FILES
from fractal_rm.config.flow_source import flows_text_in_force
from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import Version, file_version
from fractal_rm.domain.findings import Level
from fractal_rm.web.config_check import ConfigCheck, FindingView

# The digest in force, the state of each file, and the newest configuration that was stored: it is
# stored a moment after it was applied.
Stamp = tuple[str, tuple[Version | None, ...], int]


class FilesOnDisk(msgspec.Struct, frozen=True):
    """The files of the configuration on the disk, compared with what is in force.

    ``error`` is the first error of the files, which therefore cannot be applied. ``flows_text`` is
    the text of flows.conf in force; None: it is not known.
    """

    is_in_force: bool
    error: FindingView | None
    flows_text: str | None


class FilesWatch:
    """Compares the files when they or the configuration in force have changed, and only then."""

    def __init__(self, check: ConfigCheck) -> None:
        self._check = check
        self._stamp: Stamp | None = None
        self._found = FilesOnDisk(is_in_force=True, error=None, flows_text=None)
        self._one_at_a_time = asyncio.Lock()

    async def now(self) -> FilesOnDisk:
        """The files as they are now."""
        async with self._one_at_a_time:
            config = self._check.config()
            stamp = await asyncio.to_thread(_stamp_of, config)
            if stamp != self._stamp:
                view = await self._check.view()
                errors = [each for each in view.findings if each.level == Level.ERROR.value]
                text = await asyncio.to_thread(flows_text_in_force, config)
                self._found = FilesOnDisk(view.is_in_force, errors[0] if errors else None, text)
                self._stamp = stamp
            return self._found


def _stamp_of(config: Config) -> Stamp:
    versions = tuple(_version(Path(config.folder) / file) for file in FILES)
    return config.digest, versions, _newest_stored(Path(config.state_path))


def _newest_stored(state: Path) -> int:
    try:
        return max(applied_numbers(state), default=0)
    except NotKept:
        return 0


def _version(path: Path) -> Version | None:
    try:
        return file_version(os.stat(path))  # noqa: PTH116 - as in config.load
    except (OSError, ValueError):
        return None

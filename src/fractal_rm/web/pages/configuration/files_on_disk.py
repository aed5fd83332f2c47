"""Whether the files of the configuration have changed since they were applied, and why not."""

from __future__ import annotations

import asyncio

import msgspec

from fractal_rm.config.flow_source import flows_text_in_force
from fractal_rm.domain.findings import Finding, Level
from fractal_rm.web.config_check import ConfigCheck


class FilesOnDisk(msgspec.Struct, frozen=True):
    """The files of the configuration on the disk, compared with what is in force.

    ``error`` is the first error of the files, which therefore cannot be applied. ``flows_text`` is
    the text of flows.conf in force; None: it is not known.
    """

    is_in_force: bool
    error: Finding | None
    flows_text: str | None


class FilesWatch:
    """Compares the files. The text in force is read once for each configuration."""

    def __init__(self, check: ConfigCheck) -> None:
        self._check = check
        self._flows: tuple[str, str] | None = None  # the digest in force, and the text

    async def now(self) -> FilesOnDisk:
        """The files as they are now."""
        digest, on_disk = self._check.config().digest, await self._check.on_disk()
        errors = [each for each in on_disk.findings if each.level is Level.ERROR]
        is_in_force = on_disk.config is not None and on_disk.config.digest == digest
        return FilesOnDisk(is_in_force, errors[0] if errors else None, await self._flows_text())

    async def _flows_text(self) -> str | None:
        config = self._check.config()
        if self._flows is None or self._flows[0] != config.digest:
            text = await asyncio.to_thread(flows_text_in_force, config)
            if text is None:  # a configuration is stored a moment after it was applied
                return None
            self._flows = config.digest, text
        return self._flows[1]

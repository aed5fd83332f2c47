"""Compares the configuration in force with the files on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fractal_rm.config.load import load
from fractal_rm.config.model import Config
from fractal_rm.domain.findings import ConfigRejected, Finding


class FindingView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finding about a file. ``line`` and ``column`` count from 1, or are 0 for the whole file."""

    file: str
    line: int
    column: int
    code: str
    level: str
    text: str
    help: str = ""


class ConfigView(msgspec.Struct, frozen=True):
    """The configuration: in force and on the disk.

    ``digest`` identifies the content that is in force. ``on_disk`` is that of the files now; null
    if they have errors. ``is_in_force``: whether both are equal. ``findings`` are those of the
    files on the disk.
    """

    digest: str
    on_disk: str | None
    is_in_force: bool
    folder: str
    findings: list[FindingView]


class ConfigCheck:
    """Reads the files when it is asked. ``config`` returns the configuration in force.

    Reading them takes as long as `fractal-rm check`, so this is done once at a time.
    """

    def __init__(
        self, config: Callable[[], Config], environ: Mapping[str, str], now_ms: Callable[[], int]
    ) -> None:
        self._config = config
        self._environ = environ
        self._now_ms = now_ms
        self._one_at_a_time = asyncio.Lock()

    def config(self) -> Config:
        """The configuration in force."""
        return self._config()

    async def view(self) -> ConfigView:
        """Both configurations as they are now."""
        in_force = self._config()
        async with self._one_at_a_time:
            digest, findings = await asyncio.to_thread(self._read, Path(in_force.folder))
        views = [_view(finding) for finding in findings]
        return ConfigView(
            in_force.digest, digest, digest == in_force.digest, in_force.folder, views
        )

    def _read(self, folder: Path) -> tuple[str | None, list[Finding]]:
        try:
            compiled = load(folder, self._environ, self._now_ms())
        except ConfigRejected as error:
            return None, list(error.findings)
        return compiled.config.digest, compiled.warnings


def _view(finding: Finding) -> FindingView:
    place = finding.place
    return FindingView(
        finding.file, place.line, place.column, finding.code, finding.level.value, finding.text,
        finding.help or "",
    )  # fmt: skip

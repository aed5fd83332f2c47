"""Compares the configuration in force with the files on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fractal_rm.config.compile import FILES, digests_of
from fractal_rm.config.load import load, read_file, version_of
from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import Version
from fractal_rm.domain.findings import ConfigRejected, Finding

KEPT_MS = 10_000  # findings about certificates depend on the time


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


class OnDisk(msgspec.Struct, frozen=True):
    """The files on the disk: ``config`` is None if they have errors.

    ``digests`` has a digest of each file that can be read, as `Config.file_digests`.
    """

    config: Config | None
    findings: list[Finding]
    digests: Mapping[str, str]


class ConfigCheck:
    """Reads the files when it is asked. ``config`` returns the configuration in force.

    Reading them takes as long as `fractal-rm check`, so this is done once at a time, and only if a
    file has changed, or after ten seconds.
    """

    def __init__(
        self, config: Callable[[], Config], environ: Mapping[str, str], now_ms: Callable[[], int]
    ) -> None:
        self._config = config
        self._environ = environ
        self._now_ms = now_ms
        self._one_at_a_time = asyncio.Lock()
        self._kept: tuple[dict[Path, Version], int, OnDisk] | None = None

    def config(self) -> Config:
        """The configuration in force."""
        return self._config()

    async def view(self) -> ConfigView:
        """Both configurations as they are now."""
        in_force, on_disk = self._config(), await self.on_disk()
        digest = None if on_disk.config is None else on_disk.config.digest
        views = [_view(finding) for finding in on_disk.findings]
        return ConfigView(
            in_force.digest, digest, digest == in_force.digest, in_force.folder, views
        )

    async def on_disk(self) -> OnDisk:
        """The files as they are now."""
        folder = Path(self._config().folder)
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._read, folder)

    def _read(self, folder: Path) -> OnDisk:
        now_ms = self._now_ms()
        if self._kept is not None:
            versions, at_ms, on_disk = self._kept
            is_new = 0 <= now_ms - at_ms < KEPT_MS
            if is_new and all(version_of(path) == each for path, each in versions.items()):
                return on_disk
        own = {folder / file: version_of(folder / file) for file in FILES}
        try:
            compiled = load(folder, self._environ, now_ms)
            config, referenced = compiled.config, compiled.referenced
            on_disk = OnDisk(config, compiled.warnings, config.file_digests)
        except ConfigRejected as error:
            digests = digests_of({file: read_file(folder / file) for file in FILES})
            on_disk, referenced = OnDisk(None, list(error.findings), digests), error.referenced
        self._kept = own | {path: version_of(path) for path in referenced}, now_ms, on_disk
        return on_disk


def _view(finding: Finding) -> FindingView:
    place = finding.place
    return FindingView(
        finding.file, place.line, place.column, finding.code, finding.level.value, finding.text,
        finding.help or "",
    )  # fmt: skip

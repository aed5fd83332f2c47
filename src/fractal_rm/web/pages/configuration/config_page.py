"""The configuration: in force and on the disk, its findings, and its history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
from litestar import Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from fractal_rm.config.applied import NotKept
from fractal_rm.config.compile import FILES
from fractal_rm.config.load import read_file
from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.config.restart import ONLY_AT_START, needs_restart
from fractal_rm.config.secrets import secrets_of
from fractal_rm.config.shown_text import shown_text
from fractal_rm.config.versions import Past
from fractal_rm.config.write_files import why_not_writable
from fractal_rm.domain.findings import Finding, Level
from fractal_rm.web.config_check import OnDisk
from fractal_rm.web.config_history import ConfigHistory
from fractal_rm.web.pages.frame.forms import read_page_query
from fractal_rm.web.pages.frame.site import AnyRequest, Site

EDITED = "flows.conf"
PENDING_S, CALM_S = 1, 10  # seconds between two refreshes


class ConfigQuery(msgspec.Struct, frozen=True):
    """``saved``: a file that was just saved, with ``flow`` in view.

    ``changed``: the ids of the flows that it has changed, with commas.

    ``back``: the number of the configuration to which the node went back.
    """

    saved: str = ""
    flow: str = ""
    changed: str = ""
    back: int = 0

    @property
    def changed_flows(self) -> list[str]:
        """The ids of the flows that were changed."""
        return [each for each in self.changed.split(",") if each]


class FileRow(msgspec.Struct, frozen=True):
    """A file on the disk. ``changed_ms`` is when it was changed; None: it cannot be read."""

    file: str
    size: int
    changed_ms: int | None
    differs: bool
    errors: int
    warnings: int


class Compared(msgspec.Struct, frozen=True):
    """What the page says first. ``tone`` is ``ok``, ``wait`` or ``fail``."""

    tone: str
    sign: str
    text: str
    is_pending: bool = False


def compared(config: Config, on_disk: OnDisk, not_applied: Sequence[str]) -> Compared:
    """Whether the files on the disk are in force, and if not, what happens now."""
    if on_disk.config is None:
        return Compared("fail", "✗", "the files have errors, so the node does not use them")
    if on_disk.config.digest == config.digest:
        return Compared("ok", "●", "the files are in force")
    if not_applied:
        return Compared("fail", "✗", "the node cannot use the files", is_pending=True)
    return Compared(
        "wait", "◌", "the files were changed, and will be used at once", is_pending=True
    )


def config_routes(site: Site, history: ConfigHistory) -> list[HTTPRouteHandler]:
    """Make the routes of the configuration, and of one file of it."""

    @get("/config", opt={"query": ConfigQuery})
    async def show(request: AnyRequest) -> Response[bytes]:
        query = read_page_query(request, ConfigQuery)
        config = site.config()
        on_disk = await site.operator.configuration.on_disk()
        past, fault = await asyncio.to_thread(_past, history)
        state = compared(config, on_disk, site.operator.not_applied())
        restart = needs_restart(config, on_disk.config) if on_disk.config else []
        rows = await asyncio.to_thread(_rows, Path(config.folder), config, on_disk)
        writable = await asyncio.to_thread(why_not_writable, Path(config.folder) / EDITED)
        in_force = next((each for each in past if each.digests == config.file_digests), None)
        return await site.page(
            request, "config.html", query=query, config=config, compared=state, rows=rows,
            findings=on_disk.findings, past=past, fault=fault, in_force=in_force, restart=restart,
            only_at_start=[key.replace("_", ".") for key in ONLY_AT_START],
            not_applied=site.operator.not_applied() if state.is_pending else (),
            why_not=why_not_editable(config, writable),
            every=PENDING_S if state.is_pending else CALM_S,
        )  # fmt: skip

    @get("/config/files/{file:str}")
    async def show_file(request: AnyRequest) -> Response[bytes]:
        file = request.path_params["file"]
        if file not in FILES:
            raise HTTPException(status_code=404, detail="the configuration has no such file")
        config = site.config()
        text = await asyncio.to_thread(read_file, Path(config.folder) / file)
        on_disk = await site.operator.configuration.on_disk()
        findings = [each for each in on_disk.findings if each.file == file]
        shown = ""
        if isinstance(text, str):
            secrets = secrets_of(config)
            shown = await asyncio.to_thread(shown_text, file, text, secrets)
        marked = {each.place.line: each.level.value for each in reversed(findings)}
        lines = [(n, line, marked.get(n, "")) for n, line in enumerate(shown.split("\n"), 1)]
        return await site.page(
            request, "config_file.html", file=file, lines=lines, findings=findings,
            folder=config.folder, fault=text if isinstance(text, Finding) else None,
            is_edited=file == EDITED,
        )  # fmt: skip

    return [show, show_file]


def why_not_editable(config: Config, not_writable: str) -> str:
    """Why pages cannot change files of the configuration; empty if they can."""
    if not config.editable:
        return "config.editable is false in comm.conf: the files are changed on the machine only"
    return not_writable


def _past(history: ConfigHistory) -> tuple[list[Past], str]:
    try:
        return history.past(), ""
    except NotKept as error:
        return [], error.reason


def _rows(folder: Path, config: Config, on_disk: OnDisk) -> list[FileRow]:
    return [_row(folder / file, config, on_disk) for file in FILES]


def _row(path: Path, config: Config, on_disk: OnDisk) -> FileRow:
    file = path.name
    size, changed_ms = 0, None
    try:
        status = stat_regular(path)
        size, changed_ms = status.st_size, int(status.st_mtime * 1000)
    except OSError:  # a finding says why
        pass
    levels = [each.level for each in on_disk.findings if each.file == file]
    errors = levels.count(Level.ERROR)
    differs = on_disk.digests.get(file) != config.file_digests.get(file)
    return FileRow(file, size, changed_ms, differs, errors, len(levels) - errors)

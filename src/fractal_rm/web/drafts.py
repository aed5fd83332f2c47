"""Drafts of flows.conf: what a person edits in a browser is checked, and written whole."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.config.compile import FILES, compile_config
from fractal_rm.config.load import read_file
from fractal_rm.config.model import Config
from fractal_rm.config.versions import texts_on_disk
from fractal_rm.config.write_files import why_not_writable, write_configuration
from fractal_rm.domain.draft_text import (
    MAX_DRAFT_BYTES,
    FileMarks,
    close_draft,
    open_draft,
    unshown_character,
)
from fractal_rm.domain.findings import ConfigRejected, Finding, Level
from fractal_rm.domain.flow import Flow
from fractal_rm.flowlang import compile_flows

FILE = "flows.conf"
MAX_WAITING = 8  # checks that wait for another check


class OpenFile(msgspec.Struct, frozen=True):
    """flows.conf on the disk. ``text`` is what a text area gets, with LF at the end of each line.

    ``digest`` identifies the content. ``why_not`` says why the file cannot be edited in a browser;
    empty if it can.
    """

    text: str
    digest: str
    marks: FileMarks
    why_not: str = ""


class Checked(msgspec.Struct, frozen=True):
    """The findings of a draft, and its flows in their order. ``fault``: it was not checked.

    ``wrong`` has the ids of the flows with errors.
    """

    findings: tuple[Finding, ...] = ()
    flows: tuple[Flow, ...] = ()
    wrong: frozenset[str] = frozenset()
    fault: str = ""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings for which a node would not use the draft."""
        return tuple(each for each in self.findings if each.level is Level.ERROR)

    @property
    def may_be_saved(self) -> bool:
        """Whether the draft was checked, and has no errors."""
        return not self.fault and not self.errors


class Drafts:
    """Opens, checks and writes flows.conf. ``config`` returns the configuration in force."""

    def __init__(self, config: Callable[[], Config], now_ms: Callable[[], int]) -> None:
        self._config = config
        self._now_ms = now_ms
        self._one_at_a_time = asyncio.Lock()
        self._waiting = 0

    @property
    def path(self) -> Path:
        """The path of flows.conf."""
        return Path(self._config().folder) / FILE

    async def open(self) -> OpenFile:
        """The file as it is on the disk now."""
        return await asyncio.to_thread(self._open)

    async def check(self, draft: str) -> Checked:
        """The findings of a draft. One draft is checked at a time; see `MAX_WAITING`."""
        if len(draft.encode()) > MAX_DRAFT_BYTES:
            return Checked(fault=f"the text has more than {MAX_DRAFT_BYTES >> 20} MiB")
        unshown = unshown_character(draft.replace("\r\n", "\n"))
        if unshown:
            return Checked(fault=f"{unshown}, which browsers do not show")
        if self._waiting >= MAX_WAITING:
            return Checked(fault="other checks are running; check again")
        self._waiting += 1
        try:
            async with self._one_at_a_time:
                return await asyncio.to_thread(self._check, draft.replace("\r\n", "\n"))
        finally:
            self._waiting -= 1

    async def save(self, draft: str, opened: OpenFile, by: str) -> tuple[str, ...]:
        """Write a draft that has no errors in place of the file that was opened.

        Returns the names of the files that changed. Raises ChangedMeanwhile if the file has
        changed since, FilesNotWritten and NotInHistory.
        """
        return await asyncio.to_thread(self._save, draft, opened, by)

    def _open(self) -> OpenFile:
        content = read_file(self.path)
        if isinstance(content, Finding):
            return OpenFile("", "", FileMarks(), content.text)
        text, marks = open_draft(content)
        why_not, unshown = why_not_writable(self.path), unshown_character(text)
        if len(content.encode()) > MAX_DRAFT_BYTES:
            why_not = f"{FILE} has more than {MAX_DRAFT_BYTES >> 20} MiB"
        elif unshown:
            why_not = f"{unshown}, which browsers do not show or do not keep"
        return OpenFile(text, _digest(content), marks, why_not)

    def _check(self, draft: str) -> Checked:
        folder = self.path.parent
        texts = {file: read_file(folder / file) for file in FILES} | {FILE: draft}
        config = self._config()
        try:
            compiled = compile_config(texts, folder, os.environ, now_ms=self._now_ms())
            findings, flows = compiled.warnings, compiled.config.flows
        except ConfigRejected as error:
            findings = error.findings
            flows, _ = compile_flows(draft, _endpoints(config))
        own = tuple(each for each in findings if each.file == FILE)
        in_order = tuple(sorted(flows.values(), key=lambda flow: flow.line))
        return Checked(own, in_order, _with_errors(draft, in_order, own))

    def _save(self, draft: str, opened: OpenFile, by: str) -> tuple[str, ...]:
        config = self._config()
        folder = Path(config.folder)
        on_disk = texts_on_disk(folder)
        texts = on_disk | {FILE: close_draft(draft, opened.marks)}
        seen = on_disk | {FILE: close_draft(opened.text, opened.marks)}
        return write_configuration(
            folder, Path(config.state_path), texts, seen=seen, by=by, at_ms=self._now_ms()
        )


def flow_at(flows: tuple[Flow, ...], line: int) -> Flow | None:
    """The flow of a line: the last one that begins there or before."""
    before = [flow for flow in flows if flow.line <= line]
    return before[-1] if before else None


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def _endpoints(config: Config) -> dict[str, tuple[str, ...]]:
    return {name: tuple(each.endpoints) for name, each in config.components.items()}


def _with_errors(
    draft: str, flows: tuple[Flow, ...], findings: tuple[Finding, ...]
) -> frozenset[str]:
    """The ids of the flows with errors. A blank line ends a flow."""
    lines = draft.split("\n")
    wrong = [each.place.line for each in findings if each.level is Level.ERROR]
    ids: set[str] = set()
    for flow in flows:
        end = next((n for n in range(flow.line, len(lines)) if not lines[n].strip()), len(lines))
        if any(flow.line <= line <= end for line in wrong):
            ids.add(flow.id)
    return frozenset(ids)

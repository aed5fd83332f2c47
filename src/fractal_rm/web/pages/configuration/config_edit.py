"""Edit flows.conf: findings as one types, the picture of a flow, the cases, and saving whole.

A draft is never lost: each refusal shows it again, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from litestar import Response, get, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from markupsafe import Markup, escape

from fractal_rm.config.compile import FILES
from fractal_rm.config.staged_files import FilesNotWritten
from fractal_rm.config.write_files import ChangedMeanwhile, NotInHistory
from fractal_rm.domain.case_report import CaseReport
from fractal_rm.domain.draft_text import MAX_DRAFT_BYTES
from fractal_rm.domain.flow import Flow, without_lines
from fractal_rm.pictures.card import cards
from fractal_rm.pictures.page_picture import page_picture
from fractal_rm.web.config_history import FileDifference, compare
from fractal_rm.web.drafts import FILE, Checked, Drafts, OpenFile, flow_at
from fractal_rm.web.pages.configuration.config_page import why_not_editable
from fractal_rm.web.pages.frame.back import see_other
from fractal_rm.web.pages.frame.forms import read_form_of_site, read_page_query
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.frame.visitor import root_of

# Percent-encoded, each byte of the text may take three, and line ends become two characters. A text
# that is a little too long is still shown again; one that is far too long is not read.
MAX_FORM_BYTES = 6 * MAX_DRAFT_BYTES
MAX_LIVE_BYTES = 128 * 1024  # a longer text is checked only when somebody asks
NOT_DRAWN = 200  # flows above this number are not in the list to choose from


MOST_CHANGED = 8  # flows that the page after saving names


class EditQuery(msgspec.Struct, frozen=True):
    """``flow``: the flow to begin with."""

    flow: Annotated[str, msgspec.Meta(max_length=200)] = ""


class EditForm(msgspec.Struct, frozen=True):
    """``do``: ``live`` (while one types), ``check``, ``save``, or ``save-anyway``.

    ``digest`` identifies the file that was opened. ``line`` is that of the cursor; 0 if the browser
    runs no scripts. ``flow``: the flow that was chosen.
    """

    do: Annotated[str, msgspec.Meta(pattern=r"^(live|check|save|save-anyway)\Z")] = "check"
    text: str = ""
    digest: Annotated[str, msgspec.Meta(max_length=64)] = ""
    line: int = 0
    flow: Annotated[str, msgspec.Meta(max_length=200)] = ""


class Editor(msgspec.Struct, frozen=True):
    """What the page shows. ``refusal`` says why the draft was not saved.

    ``theirs``: how the draft differs from the file, which somebody has changed. ``cases`` is None
    if the cases were not run. ``may_save_anyway``: only cases are in the way.
    """

    draft: str
    opened: OpenFile
    checked: Checked
    flow: Flow | None
    why_not: str = ""
    refusal: str = ""
    theirs: FileDifference | None = None
    cases: CaseReport | None = None
    may_save_anyway: bool = False

    @property
    def content(self) -> Markup:
        """The draft for a text area, which drops the first line feed."""
        return Markup("\n") + escape(self.draft)

    @property
    def numbers(self) -> str:
        """The numbers of the lines."""
        return "\n".join(map(str, range(1, self.rows + 1)))

    @property
    def rows(self) -> int:
        """The number of lines."""
        return self.draft.count("\n") + 1

    @property
    def columns(self) -> int:
        """The length of the longest line, within limits."""
        return min(max(map(len, self.draft.split("\n")), default=0) + 2, 400)

    @property
    def is_live(self) -> bool:
        """Whether the text is short enough to be checked while one types."""
        return len(self.draft) <= MAX_LIVE_BYTES

    @property
    def is_changed(self) -> bool:
        """Whether the draft differs from the file."""
        return self.draft != self.opened.text

    @property
    def picture(self) -> Markup:
        """The picture of the flow; empty if there is none."""
        if self.flow is None or self.flow.id in self.checked.wrong:
            return Markup("")
        drawn = page_picture(self.flow, cards(self.flow), f"Picture of flow {self.flow.id}")
        return Markup(drawn)  # noqa: S704 - `pictures` escapes

    @property
    def choices(self) -> tuple[Flow, ...]:
        """The flows to choose from."""
        return self.checked.flows[:NOT_DRAWN]


class Refusal(msgspec.Struct, frozen=True):
    """Why a draft was not saved. ``because_of_cases``: it may be saved all the same."""

    reason: str
    status: int
    because_of_cases: bool = False


CHANGED = Refusal(f"{FILE} was changed since you opened it", 409)


def edit_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes."""
    editing = _Editing(site, Drafts(site.config, site.clock.now_ms))

    @get("/config/edit/flows.conf", opt={"query": EditQuery})
    async def show(request: AnyRequest) -> Response[bytes]:
        return await editing.begin(request, read_page_query(request, EditQuery))

    @get("/config/edit/{file:str}")
    async def show_other(request: AnyRequest) -> Response[bytes]:
        return _to_file(request)

    @post("/config/edit/flows.conf")
    async def change(request: AnyRequest) -> Response[bytes]:
        form, fault = await read_form_of_site(site, request, EditForm, MAX_FORM_BYTES)
        draft = form.text.replace("\r\n", "\n")
        if fault is not None:
            return await editing.refuse(request, draft, form, fault.reason)
        if form.do == "live":
            return await editing.live(request, draft, form)
        if form.do == "check":
            return await editing.check(request, draft, form)
        return await editing.save(request, draft, form)

    return [show, show_other, change]


def _to_file(request: AnyRequest) -> Response[bytes]:
    """The other files are shown, and say why they are not edited here."""
    file = request.path_params["file"]
    if file not in FILES:
        raise HTTPException(status_code=404, detail="the configuration has no such file")
    return see_other(f"config/files/{file}", root=root_of(request.url.path))


class _Editing:
    def __init__(self, site: Site, drafts: Drafts) -> None:
        self._site = site
        self._drafts = drafts

    async def begin(self, request: AnyRequest, query: EditQuery) -> Response[bytes]:
        """The page with the file on the disk."""
        opened = await self._drafts.open()
        checked = await self._drafts.check(opened.text)
        flow = _chosen(checked, query.flow, 0)
        return await self._page(request, Editor(opened.text, opened, checked, flow))

    async def live(self, request: AnyRequest, draft: str, form: EditForm) -> Response[bytes]:
        """Only what stands beside the text."""
        opened, checked = await self._drafts.open(), await self._drafts.check(draft)
        editor = Editor(draft, opened, checked, _chosen(checked, form.flow, form.line))
        return self._site.page_at_once(request, "config_checked.html", editor=editor)

    async def refuse(
        self, request: AnyRequest, draft: str, form: EditForm, reason: str
    ) -> Response[bytes]:
        """The draft again, with a form that can be sent."""
        opened, checked = await self._drafts.open(), await self._drafts.check(draft)
        editor = Editor(draft, opened, checked, _chosen(checked, form.flow, form.line))
        return await self._page(request, editor, f"Not saved: {reason}.", 403, form.digest)

    async def check(self, request: AnyRequest, draft: str, form: EditForm) -> Response[bytes]:
        """Findings and cases; nothing is saved."""
        opened = await self._drafts.open()
        editor = await self._checked(draft, opened, form)
        return await self._page(request, editor, digest=form.digest)

    async def save(self, request: AnyRequest, draft: str, form: EditForm) -> Response[bytes]:
        """Save the draft, or show it again with the reason why it was not saved."""
        opened = await self._drafts.open()
        why_not = self._why_not(opened)
        if not why_not and draft == opened.text:  # saved before, by the same form
            return self._saved(request, form.flow, "")
        editor = await self._checked(draft, opened, form)
        changed = _changed(editor.checked, self._site.config().flows)
        if why_not:
            refusal = Refusal("the file cannot be changed here", 403)
        elif form.digest != opened.digest:
            refusal = CHANGED
        else:
            refusal = _refusal(editor, form.do)
        if refusal is None:
            refusal = await self._write(request, draft, opened)
        if refusal is None:
            return self._saved(request, editor.flow.id if editor.flow else "", changed)
        digest = form.digest
        if refusal is CHANGED:  # with both versions on the page, the next form may replace the file
            opened = await self._drafts.open()
            theirs = await asyncio.to_thread(compare, FILE, opened.text, draft, set())
            editor = msgspec.structs.replace(editor, opened=opened, theirs=theirs)
            digest = opened.digest
        editor = msgspec.structs.replace(editor, may_save_anyway=refusal.because_of_cases)
        text = f"Not saved: {refusal.reason}."
        return await self._page(request, editor, text, refusal.status, digest)

    async def _write(self, request: AnyRequest, draft: str, opened: OpenFile) -> Refusal | None:
        by = f"{self._site.visitor(request).identity.name}: edited {FILE}"
        try:
            _ = await self._drafts.save(draft, opened, by)
        except ChangedMeanwhile:
            return CHANGED
        except FilesNotWritten as error:
            return Refusal(error.reason, 507)
        except NotInHistory as error:  # the node works without it
            self._site.telemetry.problem("config_not_stored", reason=error.reason)
        return None

    def _saved(self, request: AnyRequest, flow: str, changed: str) -> Response[bytes]:
        given = {"saved": FILE, "flow": flow, "changed": changed}
        query = urlencode({name: value for name, value in given.items() if value})
        return see_other(f"config?{query}", root=root_of(request.url.path))

    async def _checked(self, draft: str, opened: OpenFile, form: EditForm) -> Editor:
        checked = await self._drafts.check(draft)
        cases = await self._site.operator.run_cases(draft) if checked.may_be_saved else None
        flow = _chosen(checked, form.flow, form.line)
        return Editor(draft, opened, checked, flow, cases=cases)

    def _why_not(self, opened: OpenFile) -> str:
        return why_not_editable(self._site.config(), opened.why_not)

    async def _page(
        self, request: AnyRequest, editor: Editor, refusal: str = "", status: int = 200,
        digest: str | None = None,
    ) -> Response[bytes]:  # fmt: skip
        why_not = self._why_not(editor.opened)
        return await self._site.page(
            request, "config_edit.html", status=status, why_not=why_not, refusal=refusal,
            editor=editor, digest=editor.opened.digest if digest is None else digest,
        )  # fmt: skip


def _changed(checked: Checked, in_force: Mapping[str, Flow]) -> str:
    """The ids of the flows of a draft that are in force with another definition, for a query."""
    found = [
        flow.id
        for flow in checked.flows
        if flow.id in in_force and without_lines(flow) != without_lines(in_force[flow.id])
    ]
    return ",".join(found[:MOST_CHANGED])


def _refusal(editor: Editor, do: str) -> Refusal | None:
    """Why a draft is not saved because of its content; None if it may be saved."""
    if not editor.checked.may_be_saved:
        return Refusal(editor.checked.fault or "the text has errors", 422)
    if do == "save" and editor.cases is not None and not editor.cases.is_well:
        return Refusal("not all cases pass", 422, because_of_cases=True)
    return None


def _chosen(checked: Checked, flow_id: str, line: int) -> Flow | None:
    """The flow at a line, or else the chosen one, or else the first."""
    if line:
        return flow_at(checked.flows, line)
    named = {flow.id: flow for flow in checked.flows}.get(flow_id)
    return named or next(iter(checked.flows), None)

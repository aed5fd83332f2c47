"""What pages are made from, and how a template becomes a response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Request, Response
from markupsafe import Markup

from fractal_rm import __version__
from fractal_rm.config.model import Config, Rest
from fractal_rm.domain.safe_text import safe_block
from fractal_rm.domain.story.words import cut
from fractal_rm.engine.ports import Clock, History, Intake, Sessions, Telemetry
from fractal_rm.web.operator import Operator
from fractal_rm.web.page_paths import parts_of
from fractal_rm.web.pages.actions.action_links import action_links, needs_action, run_path
from fractal_rm.web.pages.actions.filter_links import query_with
from fractal_rm.web.pages.frame.assets import Assets
from fractal_rm.web.pages.frame.back import back_to
from fractal_rm.web.pages.frame.glance import UNKNOWN, Glances
from fractal_rm.web.pages.frame.notices import notice_in, without_notice
from fractal_rm.web.pages.frame.pace import Pace
from fractal_rm.web.pages.frame.text_filters import FILTERS, Zone
from fractal_rm.web.pages.frame.visitor import Visitor, path_of, root_of
from fractal_rm.web.pages.numbers.own_conditions import OwnConditions
from fractal_rm.web.pages.numbers.peers import OtherNodes
from fractal_rm.web.pages.numbers.recent import Recent
from fractal_rm.web.pages.numbers.samples import Samples

AnyRequest = Request[Any, Any, Any]
HTML = "text/html"  # the framework adds the character set
BEGAN_S = "began_s"  # in the state of a request: when the node began to answer
# A page runs scripts and uses styles of this node only, and no other site may frame it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def make_templates() -> Environment:
    """The templates. Every text that they show is made safe and escaped."""
    environment = Environment(
        loader=PackageLoader("fractal_rm.web.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    own: dict[str, Callable[..., Any]] = {
        "action_links": action_links, "needs_action": needs_action, "run_path": run_path,
        "query_with": query_with, "cut": cut,
    }  # fmt: skip
    environment.filters.update(FILTERS | own)
    return environment


def _shown(value: object) -> object:
    """What a template shows of a value: nothing for None, and no character that misleads."""
    if value is None:
        return ""
    return safe_block(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@dataclass(frozen=True)
class Site:
    """What every page may use. ``config`` returns the configuration in force."""

    rest: Rest
    history: History
    intake: Intake
    operator: Operator
    config: Callable[[], Config]
    clock: Clock
    telemetry: Telemetry
    sessions: Sessions
    recent: Recent
    samples: Samples
    others: OtherNodes
    conditions: OwnConditions
    glances: Glances
    assets: Assets = field(default_factory=Assets)
    pace: Pace = field(default_factory=Pace)
    templates: Environment = field(default_factory=make_templates)

    async def note_beginning(self, request: AnyRequest) -> None:
        """Note when the node begins to make a page; see `Shown.paced`."""
        request.state[BEGAN_S] = self.clock.monotonic_s()

    def visitor(self, request: AnyRequest) -> Visitor:
        """Who looks at a page."""
        return Visitor.of(request, self.sessions, self.rest.port)

    async def page(
        self, request: AnyRequest, template: str, /, status: int = 200, **values: object
    ) -> Response[bytes]:
        """The response with a page. A request of htmx gets only what changes.

        The template gets ``values``, ``shown`` (see `Shown`) and ``glance`` (see `Glance`).
        """
        shown = Shown(self, request)
        glance = await self.glances.now() if shown.visitor.may("read") else UNKNOWN
        return self._response(template, status, shown=shown, glance=glance, **values)

    def page_at_once(
        self, request: AnyRequest, template: str, /, status: int = 200, **values: object
    ) -> Response[bytes]:
        """The same with the newest glance that there is."""
        shown = Shown(self, request)
        glance = self.glances.newest if shown.visitor.may("read") else UNKNOWN
        return self._response(template, status, shown=shown, glance=glance, **values)

    def _response(self, template: str, status: int, **values: object) -> Response[bytes]:
        text = self.templates.get_template(template).render(**values)
        return Response(text.encode(), status_code=status, headers=HEADERS, media_type=HTML)


class Shown:
    """What the layout needs: who looks, at which address, when, and in which time zone."""

    def __init__(self, site: Site, request: AnyRequest) -> None:
        self.visitor = site.visitor(request)
        self.path = path_of(request)
        self.root = root_of(self.path)
        self.now_ms = site.clock.now_ms()
        self.zone = Zone.of(request.cookies.get("zone", ""))
        self.theme = request.cookies.get("theme", "")
        self.is_part = "hx-request" in request.headers
        self.node = site.config().node_id
        self.assets = site.assets
        self.release = site.assets.release
        query = request.url.query
        self.notice = notice_in(query)
        # The address of this page, relative to itself, and relative to the root.
        self.here = (self.path.rsplit("/", 1)[-1] or "./") + (f"?{query}" if query else "")
        self.back = back_to(self.path, without_notice(query))
        self.version = __version__
        self._site = site
        self._began_s: float | None = request.state.get(BEGAN_S)

    @property
    def now_text(self) -> str:
        """The time of this page."""
        return f"{self.zone.clock(self.now_ms)} {self.zone.label}"

    def paced(self, every: str) -> str:
        """After how many seconds this page reads itself again; ``every`` if the node has time."""
        if not every or self._began_s is None:
            return every
        took_s = self._site.clock.monotonic_s() - self._began_s
        return str(self._site.pace.every_s(self.section, int(every), took_s))

    def short(self, at_ms: int) -> str:
        """A wall time in the zone of this page, as short as it can be."""
        return self.zone.short(at_ms, self.now_ms)

    @property
    def next_theme(self) -> str:
        """The colours that follow: the system's, light, dark."""
        return {"light": "dark", "dark": "auto"}.get(self.theme, "light")

    @property
    def section(self) -> str:
        """The first part of the path, such as ``runs``; empty for the overview."""
        return (parts_of(self.path) or [""])[0]

    def asset(self, name: str) -> str:
        """The address of an asset, relative to this page."""
        return self.root + self.assets.path_of(name)

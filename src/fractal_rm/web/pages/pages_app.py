"""The application with all pages. It is made at the first request of a page."""

from __future__ import annotations

from typing import Any

from litestar import Litestar, Router
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from fractal_rm.config.model import Rest
from fractal_rm.domain.access import NOBODY, THIS_MACHINE, Identity
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Clock, History, Intake, Sessions, Telemetry
from fractal_rm.web.operator import Operator
from fractal_rm.web.page_paths import scope_of_page
from fractal_rm.web.pages.actions.bulk import bulk_routes
from fractal_rm.web.pages.actions.run_actions import run_action_routes
from fractal_rm.web.pages.configuration.configuration import configuration_routes
from fractal_rm.web.pages.flows.flow_actions import flow_action_routes
from fractal_rm.web.pages.flows.flow_try import flow_try_routes
from fractal_rm.web.pages.flows.flows import flow_routes
from fractal_rm.web.pages.frame.assets import asset_routes
from fractal_rm.web.pages.frame.error_pages import make_error_pages
from fractal_rm.web.pages.frame.glance import Glances
from fractal_rm.web.pages.frame.settings import settings_routes
from fractal_rm.web.pages.frame.sign_in import sign_in_routes
from fractal_rm.web.pages.frame.site import HEADERS, Site
from fractal_rm.web.pages.frame.visitor import NotAllowed
from fractal_rm.web.pages.node.components import component_routes
from fractal_rm.web.pages.node.nodes import node_routes
from fractal_rm.web.pages.node.overview import overview_routes
from fractal_rm.web.pages.numbers.own_conditions import OwnConditions
from fractal_rm.web.pages.numbers.peers import OtherNodes
from fractal_rm.web.pages.numbers.recent import Recent
from fractal_rm.web.pages.numbers.samples import Samples
from fractal_rm.web.pages.runs.run import run_routes
from fractal_rm.web.pages.runs.run_files import run_file_routes
from fractal_rm.web.pages.runs.runs import runs_routes
from fractal_rm.web.pages.trouble.dead import dead_routes
from fractal_rm.web.pages.trouble.failures import failure_routes
from fractal_rm.web.pages.trouble.send_letter import send_routes
from fractal_rm.web.request_state import IDENTITY

_ENCODED_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class SignInFirst(FractalError):
    """Whoever sends the request has not signed in."""

    code = "sign-in-first"


def make_pages_app(
    *,
    rest: Rest,
    intake: Intake,
    history: History,
    operator: Operator,
    clock: Clock,
    telemetry: Telemetry,
    sessions: Sessions,
) -> Litestar:
    """Make the application."""
    config, recent = operator.configuration.config, Recent(history, clock)
    statuses, samples = operator.processes.statuses, Samples(history, config, clock)
    others = OtherNodes(history, samples, clock)
    conditions = OwnConditions(config, samples, others)
    site = Site(
        rest,
        history, intake, operator, config, clock, telemetry, sessions,
        recent,
        samples,
        others,
        conditions,
        Glances(history, recent, statuses, conditions, clock),
    )  # fmt: skip
    routes = [
        *asset_routes(site.assets),
        *sign_in_routes(site),
        *configuration_routes(site),
        *settings_routes(site),
        *overview_routes(site),
        *component_routes(site),
        *node_routes(site),
        *flow_routes(site),
        *flow_action_routes(site),
        *flow_try_routes(site),
        *failure_routes(site),
        *dead_routes(site),
        *send_routes(site),
        *run_action_routes(site),
        *bulk_routes(site),
        *runs_routes(site),
        *run_routes(site),
        *run_file_routes(site),
    ]
    return Litestar(
        route_handlers=[Router("/", guards=[_check_scope], route_handlers=routes)],
        before_request=site.note_beginning,
        exception_handlers=make_error_pages(site),
        openapi_config=None,
        request_max_body_size=None,  # `forms.read_form` has the limits
        before_send=[add_headers],
        logging_config=None,
    )


async def add_headers(message: Any, _scope: Any) -> None:
    """Add `HEADERS` to every response that does not have them, such as those of assets."""
    if message["type"] == "http.response.start":
        present = {name.lower() for name, _ in message["headers"]}
        message["headers"] = [
            *message["headers"],
            *(field for field in _ENCODED_HEADERS if field[0] not in present),
        ]


def _check_scope(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Raise SignInFirst or NotAllowed if the sender may not request a page."""
    asked: Any = connection.scope
    identity: Identity = asked["state"][IDENTITY]
    scope = scope_of_page(asked["method"], asked["path"])
    if scope is None or identity.may(scope):
        return
    if identity is NOBODY:
        raise SignInFirst("sign in with a token")
    who = _names(identity)
    raise NotAllowed(f"this needs the scope {scope.value}, and {who} does not have it")


def _names(identity: Identity) -> str:
    """Who looks at a page, as the page says it."""
    if identity is THIS_MACHINE:
        return "whoever opens the pages on the machine of the node, without a token,"
    return f"the {identity.name}" if identity.name.startswith("token ") else identity.name

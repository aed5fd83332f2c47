"""All routes of the configuration. They share what they know of its history."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from fractal_rm.web.config_history import ConfigHistory
from fractal_rm.web.pages.configuration.config_edit import edit_routes
from fractal_rm.web.pages.configuration.config_page import config_routes
from fractal_rm.web.pages.configuration.config_versions import diff_routes, rollback_routes
from fractal_rm.web.pages.frame.site import Site


def configuration_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes."""
    history = ConfigHistory(site.config)
    return [
        *config_routes(site, history),
        *diff_routes(site, history),
        *rollback_routes(site, history),
        *edit_routes(site),
    ]

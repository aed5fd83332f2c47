"""Serves triggers, runs, flows and health over HTTP."""

from fractal_rm.web.service import RestService

__all__ = ["RestService"]

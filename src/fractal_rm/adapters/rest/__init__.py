"""Triggers, questions and health over HTTP."""

from fractal_rm.adapters.rest.service import RestService

__all__ = ["RestService"]

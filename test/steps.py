"""Functions that build flows and steps, for tests of the engine."""

from __future__ import annotations

from fractal_rm.domain.flow import Call, CallOptions, Content, Flow, ForEach, Method, Step, Undo


def flow(*steps: Step, flow_id: str = "9", **settings: object) -> Flow:
    """A flow with these steps."""
    return Flow(flow_id, steps=steps, **settings)


def get(number: int, target: str, **options: object) -> Call:
    """Step ``number``, a GET. ``target`` is a component and its endpoint, such as "a 1"."""
    component, endpoint = target.split()
    return Call(number, component, endpoint, Method.GET, **_options(options))


def post(number: int, target: str, *items: object, **options: object) -> Call:
    """Step ``number``, a POST of ``items``, or of a template (option ``json``).

    ``target`` is a component and its endpoint, such as "a 1".
    """
    component, endpoint = target.split()
    return Call(number, component, endpoint, Method.POST, tuple(items), **_options(options))


def each(over: object, max_concurrent: int = 1) -> ForEach:
    return ForEach(over, max_concurrent)


def undo(endpoint: str, *items: object) -> Undo:
    return Undo(endpoint, tuple(items))


def items(*references: object) -> Content:
    return Content(tuple(references))


def _options(options: dict[str, object]) -> dict[str, object]:
    return {"options": CallOptions(**options)} if options else {}

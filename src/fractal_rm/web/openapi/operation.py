"""The values that describe one operation of the HTTP interface."""

from __future__ import annotations

from typing import Any

import msgspec

from fractal_rm.domain.access import Scope
from fractal_rm.web.api.query import NoParameters

JSON = "application/json"


class Answer(msgspec.Struct, frozen=True):
    """A response that is not a problem. ``kind`` is the type of its content; None: no content.

    ``headers`` has the meaning of each header by its name.
    """

    status: int
    text: str
    kind: Any = None
    example: Any = None
    media: str = JSON
    headers: dict[str, str] = {}


class Body(msgspec.Struct, frozen=True):
    """The content of a request. ``event``: a CloudEvent is read, too; this is an example."""

    kind: Any
    example: Any
    required: bool = True
    event: Any = None


class Operation(msgspec.Struct, frozen=True):
    """One method of one path.

    ``problems`` are the statuses of its problem details, besides those that every operation has.
    ``headers`` has the meaning of each header of the request by its name. ``query`` is the struct
    of its parameters, whose meanings are in `parameters`.
    """

    method: str
    path: str
    name: str
    summary: str
    scope: Scope | None
    answers: tuple[Answer, ...]
    text: str = ""
    query: type[msgspec.Struct] = NoParameters
    body: Body | None = None
    problems: tuple[int, ...] = ()
    headers: dict[str, str] = {}
    problem_kind: Any = None  # of 409 and other refusals, if it is more than `Problem`

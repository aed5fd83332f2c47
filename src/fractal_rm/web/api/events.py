"""``/v1/events``: what changes, as Server-Sent Events."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.web.api.query import read_query
from fractal_rm.web.live import LiveEvents, TooManyStreams, Topic, stream_text
from fractal_rm.web.live.topic import ALL_TOPICS
from fractal_rm.web.problems import MEDIA_TYPE, Problem
from fractal_rm.web.request_state import AT_EOF

MEDIA = "text/event-stream"
# A proxy must pass each message on at once, and store none.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
RETRY_AFTER_S = 10
_LAST_ID = "last-event-id"


class EventsQuery(msgspec.Struct, frozen=True):
    """The topics of the stream; all of them if there is no parameter."""

    topics: tuple[Topic, ...] = ALL_TOPICS


def event_routes(live: LiveEvents) -> list[HTTPRouteHandler]:
    """Make the route of ``/v1/events``."""

    @get("/v1/events", opt={"query": EventsQuery})
    async def listen(request: Request[Any, Any, Any]) -> Response[Any]:
        topics = frozenset(read_query(request.scope["query_string"], EventsQuery).topics)
        if request.scope["state"].get("is_head"):
            return Response(b"", media_type=MEDIA, headers=HEADERS)
        try:
            news = live.open(topics)
        except TooManyStreams as error:
            title = "There are too many streams"
            problem = Problem(CODE_PREFIX + error.code, title, 503, error.reason)
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return Response(problem, status_code=503, media_type=MEDIA_TYPE, headers=headers)
        request.scope["state"][AT_EOF] = partial(live.end, news)
        text = stream_text(live, topics, news, request.headers.get(_LAST_ID))
        return Stream(text, media_type=MEDIA, headers=HEADERS)

    return [listen]

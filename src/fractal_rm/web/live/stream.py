"""The text of one stream: Server-Sent Events (HTML, 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fractal_rm.web.live.events import LiveEvents
from fractal_rm.web.live.ring import Event
from fractal_rm.web.live.topic import Topic

HEARTBEAT_S = 15.0
# A stream ends after this time, and its client connects again. So a token that was revoked reads no
# longer than this.
MAX_STREAM_S = 300.0
RETRY_MS = 3_000


async def stream_text(
    live: LiveEvents,
    topics: frozenset[Topic],
    news: asyncio.Event,
    last_id: str | None,
    heartbeat_s: float = HEARTBEAT_S,
    max_stream_s: float = MAX_STREAM_S,
) -> AsyncGenerator[bytes, None]:
    """Yield messages until the stream ends. ``news`` is that of `LiveEvents.open`.

    If the client reads slowly, this generator waits. Events that were dropped meanwhile are
    replaced by one `reset`: then the client must read the lists again.
    """
    ring, loop = live.ring, asyncio.get_running_loop()
    end_s = loop.time() + max_stream_s
    status_number = 0
    try:
        known = None if last_id is None else ring.number_of(last_id)
        position = ring.last if known is None else known
        first = "open" if known is not None or last_id is None else "reset"
        yield f"retry: {RETRY_MS}\n".encode() + _message(first, b"{}", ring.id_of(position))
        while live.is_open(news) and loop.time() < end_s:
            if not ring.has_all_after(position):
                position = ring.last
                yield _message("reset", b"{}", ring.id_of(position))
            events = ring.after(position)
            parts = _messages(events, topics)
            number, status = live.node_status
            if Topic.NODE in topics and number > status_number:
                status_number = number
                parts.append((Topic.NODE.value, status))
            position = ring.last
            if parts:
                ids = [None] * (len(parts) - 1) + [ring.id_of(position)]
                yield b"".join(
                    _message(name, data, event_id)
                    for (name, data), event_id in zip(parts, ids, strict=True)
                )
            news.clear()
            if not await _wait(news, heartbeat_s):
                yield b": alive\n\n"
        if not live.is_open(news):
            yield _message("bye", b"{}", ring.id_of(position))
    finally:
        live.close(news)


def _messages(events: list[Event], topics: frozenset[Topic]) -> list[tuple[str, bytes]]:
    """One message for each topic that has events: its name, and a JSON list."""
    messages: list[tuple[str, bytes]] = []
    for topic in (Topic.RUNS, Topic.FAILURES, Topic.FLOWS):
        if topic in topics:
            data = [event.data for event in events if topic in event.topics]
            if data:
                messages.append((topic.value, b"[" + b",".join(data) + b"]"))
    return messages


def _message(name: str, data: bytes, event_id: str | None) -> bytes:
    # JSON has no line ends outside of escapes, so one line is enough.
    head = f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "")
    return head.encode() + b"data: " + data + b"\n\n"


async def _wait(news: asyncio.Event, limit_s: float) -> bool:
    """Wait for news. Returns false if there were none within the time."""
    try:
        await asyncio.wait_for(news.wait(), limit_s)
    except asyncio.TimeoutError:
        return False
    return True

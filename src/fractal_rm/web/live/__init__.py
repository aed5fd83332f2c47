"""Live events for clients that listen: what changes, gathered to one message a second.

- `gathering`: takes facts and gathers what they change; it exists only while somebody listens.
- `ring`: the newest events, so that a client that connects again misses nothing.
- `events`: begins and ends the gathering, and wakes the streams.
- `stream`: the text of one stream (Server-Sent Events).
"""

from fractal_rm.web.live.events import LiveEvents, TooManyStreams
from fractal_rm.web.live.stream import stream_text
from fractal_rm.web.live.topic import Topic

__all__ = ["LiveEvents", "TooManyStreams", "Topic", "stream_text"]

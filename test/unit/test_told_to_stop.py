"""Which SIGTERM is a second one."""

from __future__ import annotations

import asyncio
import os
import signal

from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.signals import SECOND_AFTER_S, Signals


async def test_only_what_comes_a_moment_later_is_a_second_signal():
    now_s, at_once, reread = 1.0, [], asyncio.Event()
    signals = Signals(
        QuietTelemetry(),
        reread=reread.set,
        end_now=lambda: at_once.append(now_s),
        monotonic_s=lambda: now_s,
    )

    async def tell() -> None:
        """Return when it has been seen: by the signal that is sent behind it."""
        reread.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        await reread.wait()

    try:
        await tell()
        await tell()  # as uvloop may do by itself
        assert signals.stop.is_set()
        assert at_once == []
        now_s += SECOND_AFTER_S
        await tell()
        assert set(at_once) == {now_s}
    finally:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGPWR):
            loop.remove_signal_handler(number)

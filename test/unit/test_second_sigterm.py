"""The second SIGTERM ends the process immediately, if it comes some time after the first."""

from __future__ import annotations

import asyncio
import os
import signal

from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.signals import SECOND_AFTER_S, Signals


async def test_a_sigterm_immediately_after_the_first_does_not_end_the_process():
    now_s, end_times, reread = 1.0, [], asyncio.Event()
    signals = Signals(
        QuietTelemetry(),
        reread=reread.set,
        end_now=lambda: end_times.append(now_s),
        toggle_debug=lambda: None,
        monotonic_s=lambda: now_s,
    )

    async def send_sigterm() -> None:
        """Send a SIGTERM, then a SIGHUP, and wait until both were handled."""
        reread.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        await reread.wait()

    try:
        await send_sigterm()
        # This one is ignored: it may be the first SIGTERM, which uvloop has reported twice.
        await send_sigterm()
        assert signals.stop.is_set()
        assert end_times == []
        now_s += SECOND_AFTER_S
        await send_sigterm()
        assert set(end_times) == {now_s}
    finally:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGPWR):
            loop.remove_signal_handler(number)

"""Keeps this node connected to a broker. The first connect and every reconnect use the same code.

connect ──> subscribe ──> open ──ended──> pause ──> connect, with the next broker or options
   └───────────┴─────────failed────────────^
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from fractal_rm.adapters.mqtt.connection import Connection
from fractal_rm.adapters.mqtt.dialer import Dialer
from fractal_rm.adapters.mqtt.errors import NotConnected
from fractal_rm.adapters.mqtt.receiver import Receiver
from fractal_rm.adapters.mqtt.subscriber import Subscriber
from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.list_names import list_names
from fractal_rm.engine.ports import Clock, Random, ReadinessCheck, Telemetry

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
STEADY_AFTER_S = 5.0  # a connection that lasted longer counts as a success


class _ConnectionResult(msgspec.Struct):
    """Why a connection has ended, or could not be opened.

    ``retry_at_once``: another broker, or other options, can be tried without a pause.
    ``by_message``: the broker closed the connection because of a message that we sent. ``fault``:
    an unexpected exception.
    """

    reason: str
    retry_at_once: bool = False
    by_message: bool = False
    fault: Exception | None = None


class ConnectLoop:
    """Opens connection after connection, from `start` to `stop`.

    ``on_change`` is called with each opened connection, and with None when it has ended.
    """

    def __init__(
        self,
        dialer: Dialer,
        subscriber: Subscriber,
        receiver: Receiver,
        on_change: Callable[[Connection | None], None],
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
    ) -> None:
        self._dialer = dialer
        self._subscriber = subscriber
        self._receiver = receiver
        self._on_change = on_change
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._newest: Connection | None = None
        self._why_not_open = "not connected yet"
        self._running: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin to connect."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Disconnect cleanly.

        Messages that are being written are acknowledged. The broker redelivers messages that wait
        for room.
        """
        self._stopping = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._subscriber.stop()
        if self._newest is not None:
            # Even if the connection has ended, its messages may not be stored yet.
            await self._newest.close()
        self._on_change(None)
        self._dialer.close()

    def topics_changed(self, connection: Connection | None) -> None:
        """Apply the receiver's new topics to the open connection."""
        self._subscriber.topics_changed(connection)

    def status(self, connection: Connection | None) -> ReadinessCheck:
        """Whether messages can be received on the open connection."""
        broker = self._dialer.broker
        if connection is None:
            return ReadinessCheck("mqtt", ok=False, text=f"{broker}: {self._why_not_open}")
        text = f"{broker}, MQTT {connection.mqtt_version}"
        for feature in connection.unsupported():
            text += f"; the broker does not support {feature}"
        refused = self._subscriber.refused
        if refused:
            text += f"; the broker refuses subscriptions to {list_names(list(refused))}"
        return ReadinessCheck("mqtt", ok=not refused, text=text)

    async def _run(self) -> None:
        tries = 0
        while not self._stopping:  # before Python 3.12, wait_for may ignore the cancellation
            began_s, broker = self._clock.monotonic_s(), self._dialer.broker
            connection = self._newest = self._dialer.new_connection()
            result = await self._connect(connection)
            if self._stopping:
                return
            self._why_not_open = result.reason
            await connection.settle()
            if result.by_message or self._clock.monotonic_s() - began_s > STEADY_AFTER_S:
                tries = 0
            tries += not result.retry_at_once
            pause_s = 0.0 if result.retry_at_once else self._pause_s(tries)
            self._telemetry.problem(
                "mqtt_disconnected",
                broker=str(broker),
                reason=result.reason,
                retry_in_s=round(pause_s, 1),
                exc_info=result.fault,
            )
            await asyncio.sleep(pause_s)

    async def _connect(self, connection: Connection) -> _ConnectionResult:
        """Open the connection, and wait for its end."""
        try:
            await self._open(connection)
        except NotConnected as error:
            return _ConnectionResult(
                str(error), retry_at_once=self._dialer.note_failed(error.result)
            )
        except OSError as error:  # of a file in the state folder, such as a full disk
            return _ConnectionResult(str(error))
        except Exception as error:  # noqa: BLE001 - the top of the task
            # The loop retries, as the cause may pass. If this task ended, nothing would retry.
            return _ConnectionResult(f"{type(error).__name__}: {error}", fault=error)
        self._dialer.note_opened()
        self._on_change(connection)
        if self._stopping:
            return _ConnectionResult("")
        self._report_connected(connection)
        reason, _ = await asyncio.shield(connection.closed)
        self._why_not_open = reason
        self._on_change(None)
        await self._dialer.learn_from_status(connection)
        # If a message that we sent was the cause, the broker is healthy, so the pause is short.
        return _ConnectionResult(reason, by_message=connection.ended_by_message)

    async def _open(self, connection: Connection) -> None:
        try:
            await connection.open(with_identifier=bool(self._receiver.topics.filters))
            await self._subscriber.subscribe(connection)
        except asyncio.CancelledError:  # `stop` closes the connection
            raise
        except NotConnected:
            connection.abort()
            # The status is published before the flows' topics are requested: it may be the cause.
            await self._dialer.learn_from_status(connection)
            raise
        except BaseException:
            connection.abort()  # this connection must receive no more messages
            raise

    def _report_connected(self, connection: Connection) -> None:
        broker = str(self._dialer.broker)
        session = "resumed" if connection.resumed else "new"
        self._telemetry.event(
            "mqtt_connected", broker=broker, protocol=connection.mqtt_version, session=session
        )
        for feature in connection.unsupported():
            self._telemetry.problem("mqtt_unsupported", broker=broker, feature=feature)

    def _pause_s(self, tries: int) -> float:
        return backoff_s(tries, FIRST_PAUSE_S, LONGEST_PAUSE_S, self._random.fraction())

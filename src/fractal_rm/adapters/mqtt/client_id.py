"""The MQTT client id of a node: kept over restarts, used by one process at a time.

A broker allows one client per id. A second one with the same id disconnects the first, which
reconnects and disconnects the second, without end and without a reason. So a second process does
not start.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Random

FILE = "mqtt-client-id"
MAX_BYTES = 65_535  # of a string in MQTT (MQTT 5, 1.5.4)


class ClientIdInUse(FractalError):
    """Another process with this state folder uses it."""

    code = "client-id-in-use"


class ClientIdUnreadable(FractalError):
    """The file in the state folder does not hold a client id."""

    code = "client-id-unreadable"


class ClientId:
    """Locked from its creation until ``release``.

    Raises ClientIdInUse, ClientIdUnreadable, OSError.

    ``configured`` is the id in comm.conf. It is locked, too, since two processes with one
    configuration share it. Its lock has a name of its own, since a node with a configured id may
    run beside one with another id.
    """

    def __init__(self, configured: str | None, state: Path, random: Random) -> None:
        name = FILE
        if configured is not None:  # it may be too long for a file name, or contain slashes
            name += "-" + blake2b(configured.encode(), digest_size=8).hexdigest()
        try:
            self._lock = FileLock(state / f"{name}.lock")
        except LockHeld as held:
            raise ClientIdInUse(
                f"the MQTT client id of this node is in use by process {held.by}; stop that one"
                " first, or give this node its own mqtt.client_id in comm.conf"
            ) from None
        try:
            self.text = configured or kept_client_id(state, random)
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Let another process use it."""
        self._lock.release()


def kept_client_id(state: Path, random: Random) -> str:
    """The id in the state folder, made at the first start. It names the broker's session.

    Raises ClientIdUnreadable: with a new id, the messages queued for this node would not come.
    """
    path = state / FILE
    try:
        kept = read_regular(path).strip()
    except FileNotFoundError:
        return _create(path, random)
    if not kept:
        return _create(path, random)
    if len(kept) > MAX_BYTES or not kept.isascii() or not kept.decode("ascii").isprintable():
        raise ClientIdUnreadable(
            f"{path} does not hold an MQTT client id; write the one into it that the broker knows"
            " this node by, or delete the file: the node then takes a new id, and messages that"
            " wait at the broker for the old id do not come"
        )
    return kept.decode("ascii")


def _create(path: Path, random: Random) -> str:
    client_id = f"fractal-rm-{random.token(6).hex()}"
    replace_file(path, f"{client_id}\n".encode("ascii"))
    return client_id

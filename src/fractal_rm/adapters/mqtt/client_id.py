"""The client id of a node: kept over restarts, and used by one process at a time.

A broker admits one client of an id. A second one throws the first out, which comes back and throws
out the second, for ever, and neither is told why; so the second process does not begin.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from fractal_rm.adapters.lock import FileLock, Held
from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import Random

FILE = "mqtt-client-id"
MOST_BYTES = 65_535  # of a text in MQTT (MQTT 5, 1.5.4)


class ClientIdInUse(FractalError):
    """Another process with this state folder has it."""

    code = "client-id-in-use"


class ClientIdUnreadable(FractalError):
    """The file in the state folder does not hold one."""

    code = "client-id-unreadable"


class ClientId:
    """Taken from when it is made until ``release``.

    Raises ClientIdInUse, ClientIdUnreadable, OSError.

    ``configured`` is the one of comm.conf. It is held as the kept one is, since two launchers with
    one configuration share either; under a name of its own, since a node with an id of its own may
    run beside one that has another.
    """

    def __init__(self, configured: str | None, state: Path, random: Random) -> None:
        name = FILE
        if configured is not None:  # it may be longer than the name of a file, and have slashes
            name += "-" + blake2b(configured.encode(), digest_size=8).hexdigest()
        try:
            self._lock = FileLock(state / f"{name}.lock")
        except Held as held:
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
        """Let another process have it."""
        self._lock.release()


def kept_client_id(state: Path, random: Random) -> str:
    """The one in the state folder: the broker keeps its session under it over restarts.

    Raises ClientIdUnreadable: under a new one, what the broker keeps for the node would stay there.
    """
    path = state / FILE
    try:
        kept = read_regular(path).strip()
    except FileNotFoundError:
        return _keep(path, random)
    if not kept:
        return _keep(path, random)
    if len(kept) > MOST_BYTES or not kept.isascii() or not kept.decode("ascii").isprintable():
        raise ClientIdUnreadable(
            f"{path} does not hold an MQTT client id; write the one into it that the broker knows"
            " this node by, or delete the file: the node then takes a new id, and messages that"
            " wait at the broker for the old one do not come"
        )
    return kept.decode("ascii")


def _keep(path: Path, random: Random) -> str:
    client_id = f"fractal-rm-{random.token(6).hex()}"
    replace_file(path, f"{client_id}\n".encode("ascii"))
    return client_id

"""Names that only the C library finds: by mDNS, LDAP and whatever else nsswitch.conf(5) names."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from fractal_rm.domain.none_left import none_left

MOST_AT_ONCE = 16  # half of the lookups that there may be: names of DNS have the others


class CLibrary:
    """Asks ``getaddrinfo`` in a thread for each name.

    A thread that waits there cannot be ended: there are at most `MOST_AT_ONCE`, nothing else of the
    program waits for one of them, and none keeps the process from ending. Who asks for a name that
    a thread is still looking up waits for that one.
    """

    def __init__(self) -> None:
        self._threads = 0
        self._under_way: dict[str, asyncio.Future[tuple[str, ...] | OSError]] = {}

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a name, in the C library's order; none: it does not know the name.

        Raises gaierror, also where `MOST_AT_ONCE` names are being looked up already or no thread is
        to be had, and OSError where it could not look, as where no file descriptor is left.
        """
        found = self._under_way.get(name) or self._begin(name)
        await asyncio.wait((found,))  # which goes on when whoever waits here is cancelled
        result = found.result()
        if isinstance(result, OSError):
            raise result
        return result

    def ask_anew(self) -> None:
        """Nobody waits any more for what threads have begun to look up by now."""
        self._under_way.clear()

    def _begin(self, name: str) -> asyncio.Future[tuple[str, ...] | OSError]:
        if self._threads >= MOST_AT_ONCE:
            why = f"the C library looks up {MOST_AT_ONCE} other names already"
            raise socket.gaierror(socket.EAI_AGAIN, why)
        loop = asyncio.get_running_loop()
        found: asyncio.Future[tuple[str, ...] | OSError] = loop.create_future()

        def end(result: tuple[str, ...] | OSError) -> None:
            self._threads -= 1
            if self._under_way.get(name) is found:
                del self._under_way[name]
            found.set_result(result)

        def look_up() -> None:
            result = _look_up(name)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(end, result)

        try:
            threading.Thread(target=look_up, name=f"look up {name}", daemon=True).start()
        except RuntimeError as error:  # the system gives no more, as where `TasksMax=` is reached
            raise socket.gaierror(socket.EAI_AGAIN, str(error)) from None
        self._threads += 1
        self._under_way[name] = found
        return found


def _look_up(name: str) -> tuple[str, ...] | OSError:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return () if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else error
    except UnicodeError as error:
        return socket.gaierror(socket.EAI_FAIL, str(error))
    except OSError as error:  # EBUSY: none of the sources is installed
        return error if none_left(error) else socket.gaierror(error.errno, error.strerror)
    return tuple(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))

"""Looks up names by the C library, which asks the sources in nsswitch.conf(5), such as mDNS."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from fractal_rm.domain.descriptors import is_out_of_descriptors

MAX_THREADS = 16  # half of `MAX_LOOKUPS`, so that the other half remains for DNS


class CLibrary:
    """Calls ``getaddrinfo`` in a thread for each name.

    Such a thread cannot be stopped. So there are at most `MAX_THREADS` threads, and they are daemon
    threads: the process can end without waiting for them. If a thread already looks up a name, the
    caller waits for that thread.
    """

    def __init__(self) -> None:
        self._threads = 0
        self._lookups: dict[str, asyncio.Future[tuple[str, ...] | OSError]] = {}

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a name, in the C library's order; empty if the name has no address.

        Raises gaierror, also if `MAX_THREADS` names are being looked up or no thread can be
        started; OSError if no file descriptor is free.
        """
        lookup = self._lookups.get(name) or self._start(name)
        await asyncio.wait((lookup,))  # does not cancel the lookup if the caller is cancelled
        result = lookup.result()
        if isinstance(result, OSError):
            raise result
        return result

    def forget_lookups(self) -> None:
        """Let later calls start new lookups. Earlier calls still wait for their lookups."""
        self._lookups.clear()

    def _start(self, name: str) -> asyncio.Future[tuple[str, ...] | OSError]:
        if self._threads >= MAX_THREADS:
            reason = f"the C library looks up {MAX_THREADS} other names already"
            raise socket.gaierror(socket.EAI_AGAIN, reason)
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[tuple[str, ...] | OSError] = loop.create_future()

        def end(result: tuple[str, ...] | OSError) -> None:
            self._threads -= 1
            if self._lookups.get(name) is lookup:
                del self._lookups[name]
            lookup.set_result(result)

        def look_up() -> None:
            result = _look_up(name)
            with suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(end, result)

        try:
            threading.Thread(target=look_up, name=f"look up {name}", daemon=True).start()
        except RuntimeError as error:  # a limit of the system, such as `TasksMax=`
            raise socket.gaierror(socket.EAI_AGAIN, str(error)) from None
        self._threads += 1
        self._lookups[name] = lookup
        return lookup


def _look_up(name: str) -> tuple[str, ...] | OSError:
    try:
        entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return () if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else error
    except UnicodeError as error:
        return socket.gaierror(socket.EAI_FAIL, str(error))
    except OSError as error:
        if is_out_of_descriptors(error):
            return error
        return socket.gaierror(error.errno, error.strerror)  # EBUSY: no source is installed
    return tuple(dict.fromkeys(str(address) for _, _, _, _, (address, *_) in entries))

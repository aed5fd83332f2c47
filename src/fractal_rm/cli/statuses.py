"""Asks the running processes of a state folder what they do now."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from fractal_rm.adapters.local_socket.client import NoAnswer, NoProcess, NotAnswered, ask
from fractal_rm.adapters.local_socket.messages import AskStatus, StatusIs
from fractal_rm.adapters.local_socket.socket_file import socket_path
from fractal_rm.adapters.lock import is_locked
from fractal_rm.cli.ask import sudo_user
from fractal_rm.cli.safe_text import echo
from fractal_rm.domain.node_status import NodeStatus

LIMIT_S = 3.0  # for the answers of all processes
JOURNALS = ("up", "mqtt", "api")


class Processes(msgspec.Struct, frozen=True):
    """The processes that run now.

    ``statuses``: what each of them says, by the name of its journal. ``silent``: why the others say
    nothing, by the name of the journal.
    """

    statuses: dict[str, NodeStatus]
    silent: dict[str, str]

    @property
    def is_running(self) -> bool:
        """Whether any process runs."""
        return bool(self.statuses or self.silent)


def ask_processes(state: Path, limit_s: float = LIMIT_S) -> Processes:
    """Ask all running processes of a state folder at the same time."""
    return asyncio.run(read_statuses(state, limit_s))


async def read_statuses(state: Path, limit_s: float = LIMIT_S) -> Processes:
    """As `ask_processes`, in an event loop."""
    names = [name for name in JOURNALS if has_process(state, name) is not False]
    answers = await asyncio.gather(*(_ask(state, name, limit_s) for name in names))
    statuses = {
        n: each for n, each in zip(names, answers, strict=True) if isinstance(each, NodeStatus)
    }
    silent = {
        n: each for n, each in zip(names, answers, strict=True) if isinstance(each, str) and each
    }
    return Processes(statuses, silent)


def print_silent(processes: Processes) -> None:
    """Print which processes run but did not say anything."""
    for journal, why in processes.silent.items():
        echo(f"the process of {journal}.journal did not answer: {why}", err=True)


async def _ask(state: Path, name: str, limit_s: float) -> NodeStatus | str:
    """The status of a process, or why it is not known. An empty text: it does not run."""
    try:
        request = AskStatus(sudo_user=sudo_user())
        return (await ask(socket_path(state, name), request, StatusIs, limit_s)).status
    except NoProcess:
        if has_process(state, name):
            return "it runs, but does not listen on its socket: it starts or ends, or is older"
        return ""
    except (NoAnswer, NotAnswered) as error:
        return error.reason


def has_process(state: Path, journal: str) -> bool | None:
    """Whether a process has a journal open. None: this user cannot find out."""
    try:
        return is_locked(state / f"{journal}.lock")
    except FileNotFoundError:
        return False
    except OSError:
        return None

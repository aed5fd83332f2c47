"""`flows try`: start a real run of a flow on the running node, and tell its story."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.local_socket.client import ask
from fractal_rm.adapters.local_socket.messages import Started, StartRun
from fractal_rm.adapters.local_socket.socket_file import socket_path
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.ask import sudo_user
from fractal_rm.cli.completion import complete_flow
from fractal_rm.cli.exits import EXIT_PROBLEMS, EXIT_TIMED_OUT
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import config_option, find_flow, json_option, print_json, read_config
from fractal_rm.cli.runs_wait import wait_for_end
from fractal_rm.cli.runs_why import print_story
from fractal_rm.cli.safe_text import echo
from fractal_rm.cli.statuses import JOURNALS, has_process
from fractal_rm.cli.told import told_run
from fractal_rm.config.effects import effects_of
from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.needs import payload_paths
from fractal_rm.domain.state import State
from fractal_rm.domain.story import tell

MAX_LAST = 1_000
_USES_PAYLOAD = "the flow uses fields of the payload, and without --payload or --last it is null"
START_LIMIT_S = 30.0  # for the start of the run; the disk may be slow


class CannotTry(FractalError):
    """No run can be started: no node runs, or there is no payload."""

    code = "cannot-try"


@click.command("try")
@click.argument("flow_id", metavar="FLOW", shell_complete=complete_flow)
@click.option(
    "--payload", metavar="JSON|FILE", help="The payload: JSON, or a file that contains it."
)
@click.option(
    "--last",
    type=click.IntRange(1, MAX_LAST),
    metavar="N",
    help="Use the payload of the N-th newest run of this flow; 1 is the newest.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the end of the run.",
)
@click.option("--yes", is_flag=True, help="Do not ask before the run is started.")
@config_option
@json_option
def try_flow(
    flow_id: str, payload: str | None, last: int | None, timeout_s: float, yes: bool, folder: Path,
    as_json: bool,
) -> int:  # fmt: skip
    """Start a real run of a flow on the running node, wait for its end, and tell its story.

    The run is like any other run: its calls are really made, its flow is the one that the node uses
    now, and the balancer is asked where it is executed. Without --payload and --last, the payload
    is null: with --yes, this is refused if the flow uses fields of it. To test a flow without real
    calls, use `flows test`.

    The command shows what the flow will call, and asks first. The exit code is 0 if the run
    succeeded, 1 if it ended in another way, and 124 if it has not ended in time; then it continues.
    """
    if payload is not None and last is not None:
        raise click.UsageError("give either --payload or --last")
    config = read_config(folder)
    flow = find_flow(config, flow_id)
    state = Path(config.state_path)
    history = SqliteHistory(state)
    body = _last_payload(history, flow_id, last) if last else _payload(payload)
    is_without = payload is None and last is None and uses_payload(flow)
    if is_without and yes:
        raise click.UsageError(f"{_USES_PAYLOAD}; --payload null starts it anyway")
    journal = _running_process(state)
    if is_without:
        echo(_USES_PAYLOAD, err=True)
    if not yes:
        _confirm(config, flow, journal, body)
    run_id = asyncio.run(_start_and_wait(history, state, journal, flow_id, body, timeout_s))
    detail = find_run(history, run_id)
    story = tell(told_run(history, detail, folder))
    if as_json:
        print_json(story)
    else:
        print_story(story, detail)
    if not detail.summary.state.final:
        return EXIT_TIMED_OUT
    return 0 if detail.summary.state is State.SUCCEEDED else EXIT_PROBLEMS


def uses_payload(flow: Flow) -> bool:
    """Whether a step of a flow uses a part of the payload, such as ``payload.id``."""
    return any(payload_paths(flow.steps))


def _payload(text: str | None) -> bytes:
    """The payload of the option --payload. Raises BadParameter."""
    if text is None:
        return b"null"
    body = text.encode()
    if not _is_json(body):
        try:
            body = read_regular(Path(text))
        except (OSError, ValueError):
            raise click.BadParameter(
                f"{text!r:.200} is neither JSON nor a file that can be read; write a text as JSON:"
                " '\"text\"'",
                param_hint="--payload",
            ) from None
        if not _is_json(body):
            raise click.BadParameter(f"{text} does not contain JSON", param_hint="--payload")
    return body


def _is_json(body: bytes) -> bool:
    try:
        _ = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _last_payload(history: SqliteHistory, flow_id: str, number: int) -> bytes:
    """The payload of the N-th newest run of a flow. Raises CannotTry."""
    runs = history.runs(flow=flow_id, limit=number)
    if len(runs) < number:
        raise CannotTry(f"the journals have only {len(runs)} runs of flow {flow_id}")
    detail = history.run(runs[-1].id)
    first = detail.facts[0].fact if detail and detail.facts else None
    if not isinstance(first, Accepted) or first.omitted is not msgspec.UNSET:
        raise CannotTry(f"the payload of run {runs[-1].id} is no longer kept, or not completely")
    return bytes(first.payload)


def _running_process(state: Path) -> str:
    """The journal of the process that starts the run. A process with MQTT can execute any flow."""
    for journal in JOURNALS:
        if has_process(state, journal) is not False:
            return journal
    raise CannotTry(
        "no node runs for this configuration: start it (`fractal-rm up`), or use"
        " `fractal-rm flows test`, which needs no node"
    )


def _confirm(config: Config, flow: Flow, journal: str, body: bytes) -> None:
    """Say what will happen, and ask. Raises Abort, UsageError."""
    for line in what_will_happen(config, flow, journal, body):
        echo(line, err=True)
    if not sys.stdin.isatty():
        raise click.UsageError("the command asks before it starts a run: add --yes to start it")
    _ = click.confirm("Start the run?", abort=True, err=True)


def what_will_happen(config: Config, flow: Flow, journal: str, body: bytes) -> Iterator[str]:
    """What a run of a flow does, for the question whether to start it."""
    title = f" ({flow.title})" if flow.title else ""
    yield f"This starts a real run of flow {flow.id}{title} in the process {journal} of this node."
    for line in effects_of(config, flow).lines():
        yield f"- {line}"
    text = body.decode("utf-8", "replace")
    yield f"The payload is {text if len(text) <= 200 else text[:200] + '…'}"


async def _start_and_wait(
    history: SqliteHistory, state: Path, journal: str, flow_id: str, body: bytes, timeout_s: float
) -> str:
    request = StartRun(
        flow=flow_id,
        payload=msgspec.Raw(body),
        request_id=secrets.token_hex(16),
        sudo_user=sudo_user(),
    )
    started = await ask(socket_path(state, journal), request, Started, START_LIMIT_S)
    end_s = SystemClock.monotonic_s() + timeout_s
    return (await wait_for_end(history, state, started.run, end_s)).id

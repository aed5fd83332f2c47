"""`flows fmt`: format flows.conf."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option
from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.load import read_file
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected, Finding, Level, Place
from fractal_rm.domain.flow import Flow
from fractal_rm.flowlang import compile_flows
from fractal_rm.flowlang.format import format_flows
from fractal_rm.flowlang.scan import scan

FILE = "flows.conf"


class CannotFormat(FractalError):
    """The file is not written, because the canonical text would change the meaning of a flow."""

    code = "cannot-format"


@click.command()
@click.argument("source", metavar="[-]", required=False, type=click.Choice(["-"]))
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if the text would change.")
@config_option
def fmt(source: str | None, check: bool, folder: Path) -> int:
    """Rewrite flows.conf in the usual format.

    With -, read the text from standard input and write the result to standard output. The comments
    and the meaning of the flows do not change. A file with errors is not changed.
    """
    path = folder / FILE
    text = _standard_input() if source else _read(path)
    formatted = _canonical(text)
    changed = formatted != text
    if check:
        click.echo(
            f"{FILE}: {'would change' if changed else 'is well formatted'}", err=bool(source)
        )
        return EXIT_PROBLEMS if changed else 0
    if source:
        sys.stdout.buffer.write(formatted.encode())
        return 0
    if changed:
        replace_file(path.resolve(), formatted.encode(), keep_mode=True)
    click.echo(f"{FILE}: {'was changed' if changed else 'is well formatted'}")
    return 0


def _standard_input() -> str:
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"byte {error.start} is not UTF-8"
        raise ConfigRejected([Finding(FILE, Place(line, 1), "F113", message)]) from error


def _read(path: Path) -> str:
    text = read_file(path)
    if isinstance(text, Finding):
        raise ConfigRejected([text])
    return text


def _canonical(text: str) -> str:
    """Return the canonical text. Raises ConfigRejected if ``text`` has errors."""
    flows = _compiled(text)
    formatted = format_flows(text)
    if formatted != text and _compiled(formatted) != flows:
        raise CannotFormat(f"{FILE} was not changed: formatting would change the meaning of a flow")
    return formatted


def _compiled(text: str) -> list[Flow]:
    """Compile ``text``, and return the flows with all line numbers set to 0.

    The other configuration files are not read, so every component and endpoint that the text names
    is accepted. Raises ConfigRejected if ``text`` has errors.
    """
    endpoints: dict[str, list[str]] = {}
    current: list[str] = []  # the endpoints of the component in the last TO line
    for line in scan(text):
        match [word.text for word in line.words]:
            case ["TO", component, endpoint]:
                current = endpoints.setdefault(component, [])
                current.append(endpoint)
            case ["UNDO", endpoint, *_]:
                current.append(endpoint)
            case _:
                pass
    flows, findings = compile_flows(text, endpoints)
    if any(finding.level is Level.ERROR for finding in findings):
        raise ConfigRejected(findings)
    replace = msgspec.structs.replace
    return [
        replace(flow, line=0, steps=tuple(replace(step, line=0) for step in flow.steps))
        for flow in flows.values()
    ]

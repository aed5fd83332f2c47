"""`pair`: join two nodes, so that they hand runs off to each other over TLS."""

from __future__ import annotations

import json
import secrets
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.pairing_client import (
    MaybeJoined,
    fingerprint_of,
    send_request,
    source_address,
    trusted_certificate,
)
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option, json_option, print_json, read_config
from fractal_rm.cli.pair_node import (
    NodeOptions,
    PreparedNode,
    is_listening,
    listens_with,
    prepare_node,
    read_text,
)
from fractal_rm.cli.safe_text import echo, safe_lines
from fractal_rm.config.invitation_file import invitation_change
from fractal_rm.config.pair_files import (
    Entry,
    PairFolder,
    new_token,
    node_entry,
    nodes_without,
    set_token,
    token_name,
)
from fractal_rm.config.staged_files import PRIVATE, FileChange, StagedFiles
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.pairing import (
    SECRET_BYTES,
    VALID_MS,
    CannotPair,
    Invitation,
    NodeAddress,
    PairAnswer,
    PairRequest,
    check_distinct,
    check_node_id,
    line_text,
    new_invitation,
    read_line,
)
from fractal_rm.domain.tokens import TOKEN_BYTES, token_text

DEFAULT_DAYS = 3650
MAX_LINE = 4096
F = TypeVar("F", bound=Callable[..., Any])


class HalfJoined(FractalError):
    """The other node has added this node, but this node could not write its own files."""

    code = "half-joined"


@click.group()
def pair() -> None:
    """Join two nodes: they then hand runs off to each other over TLS.

    Run `pair invite` on one node. It prints one line. Run `pair accept LINE` with this line on the
    other node. The line is secret, valid for ten minutes, and can be used once.
    """


def _node_options(command: F) -> F:
    """Add the options of `NodeOptions` to a command."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Only show what would be written."),
        click.option(
            "--switch-to-https",
            is_flag=True,
            help="Serve only HTTPS where programs may use HTTP now.",
        ),
        click.option(
            "--new-certificate",
            is_flag=True,
            help="Replace the certificate of this node. Then join all its other nodes again.",
        ),
        click.option(
            "--days",
            type=click.IntRange(1, 36_500),
            default=DEFAULT_DAYS,
            show_default=True,
            help="How many days a new certificate is valid.",
        ),
        click.option("--name", metavar="ID", help="The id of this node, if comm.conf has none."),
        click.option(
            "--address",
            metavar="IP[:PORT]",
            help="The address by which the other machine reaches this node.",
        ),
    ):
        command = option(command)
    return command


@pair.command()
@_node_options
@config_option
@json_option
def invite(dry_run: bool, as_json: bool, **words: Any) -> None:
    """Print a line with which another node can be joined. This node must be running.

    Before, this node is prepared: it gets a certificate, and listens on the address with TLS.
    """
    node = prepare_node(NodeOptions(**words), lambda: None)
    if dry_run and as_json:
        print_json({"would_write": node.shown})
        return
    if dry_run:
        _print_written(node.shown or ["nothing"], "this would be written:", sys.stdout)
        return
    rest = node.config.rest
    if not is_listening(rest):
        raise CannotPair(
            f"no node listens on {rest.host}, port {rest.port}; start the node first"
            " (`fractal-rm up` or `rm_api.py`): it answers when the line is used"
        )
    secret = secrets.token_bytes(SECRET_BYTES)
    with StagedFiles(node.changes) as files:
        files.commit()
        read_config(words["folder"])
        if not listens_with(node.own, node.certificate):
            raise CannotPair(f"the node does not listen on {node.own.url} with its certificate; its"
                             " log shows the reason. The files were restored")  # fmt: skip
        stored = new_invitation(secret, SystemClock().moment())
        with StagedFiles([invitation_change(node.pair_folder.invitation, stored)]) as invitation:
            invitation.commit()
    _print_invitation(node, secret, as_json=as_json)


def _print_invitation(node: PreparedNode, secret: bytes, *, as_json: bool) -> None:
    fingerprint = fingerprint_of(ssl.PEM_cert_to_DER_cert(node.certificate))
    line = line_text(Invitation(node.own, fingerprint, secret))
    if as_json:
        expires_ms = SystemClock.now_ms() + VALID_MS
        print_json({"line": line, "expires_ms": expires_ms, "node": node.own.node,
                    "url": node.own.url, "written": node.shown})  # fmt: skip
        return
    _print_written(node.shown, "written:", sys.stderr)
    echo(f"Node {node.own.node} listens on {node.own.url}. Within ten minutes, run"
               " `fractal-rm pair accept LINE` on the other machine. LINE is:",
               err=True)  # fmt: skip
    click.echo(line)  # made by this program, and longer than other lines


@pair.command()
@click.argument("line")
@_node_options
@config_option
@json_option
def accept(line: str, dry_run: bool, as_json: bool, **words: Any) -> None:
    """Join this node with the node that has printed the LINE.

    If LINE is -, it is read from standard input. The node need not be running. If the other node
    cannot be reached or refuses, nothing is changed.
    """
    options = NodeOptions(**words)
    invitation = read_line(sys.stdin.read(MAX_LINE) if line == "-" else line)
    peer = invitation.address
    node = prepare_node(options, lambda: source_address(peer.host))
    check_distinct(node.own.node, peer.node)
    nodes_conf = options.folder / "nodes.conf"
    text = read_text(nodes_conf)
    entry = node_entry(text, node.config.nodes, peer, node.pair_folder)
    shown = [*node.shown, _describe(entry, peer)]
    if dry_run:
        _show_entries(node, entry, shown, peer.node, as_json=as_json)
        return
    was_running = is_listening(node.config.rest)
    certificate = trusted_certificate(invitation)
    changes = [
        *node.changes,
        FileChange(node.pair_folder.certificate_of(peer.node), certificate.encode(), PRIVATE),
        FileChange(nodes_conf, entry.in_text(text).encode()),
    ]
    replaced = _exchange(options, node, invitation, certificate, changes).replaced
    is_running = was_running and listens_with(node.own, node.certificate)
    if as_json:
        print_json({"node": node.own.node, "url": node.own.url, "peer": peer.node,
                    "peer_url": peer.url, "written": shown, "replaced_there": replaced,
                    "running": is_running})  # fmt: skip
        return
    _print_written(shown, "written:", sys.stdout)
    if replaced is not None:
        is_same = replaced == node.own.endpoint_url
        verb = "renewed" if is_same else f"replaced: {replaced}"
        echo(f"on node {peer.node}, the entry of node {node.own.node} was {verb}")
    echo(f"joined: node {node.own.node} at {node.own.url} and node {peer.node} at {peer.url}")
    if not was_running:
        echo("this node is not running: start it (`fractal-rm up` or `rm_api.py`)", err=True)
    elif not is_running:
        echo(f"this node does not listen on {node.own.url}: see its log", err=True)


def _show_entries(
    node: PreparedNode, entry: Entry, shown: list[str], peer: str, *, as_json: bool
) -> None:
    """Show what `accept` would write on this node, and the entry on the node ``peer``."""
    there = node_entry("{}", {}, node.own, node.pair_folder)
    if as_json:
        print_json({"would_write": shown, "entry": {entry.name: entry.value},
                    "entry_there": {there.name: there.value}})  # fmt: skip
        return
    _print_written([*shown, _json_of(entry)], "this would be written here:", sys.stdout)
    title = f"and this on node {peer}, with paths in its own state folder:"
    _print_written([_describe(there, node.own), _json_of(there)], title, sys.stdout)


def _exchange(
    options: NodeOptions,
    node: PreparedNode,
    invitation: Invitation,
    certificate: str,
    changes: list[FileChange],
) -> PairAnswer:
    """Ask the other node to add this node, and write the files of this node. Raises FractalError.

    The files are prepared before, so that a full disk or a missing permission is found in time.
    """
    peer, now_ms = invitation.address, SystemClock.now_ms()
    token = token_text(secrets.token_bytes(TOKEN_BYTES))
    request = PairRequest(node.own, node.certificate, token, now_ms)
    has_answered = False
    try:
        token_file = TokenFile(Path(node.config.state_path))
        with StagedFiles(changes) as files, token_file.changing() as tokens:
            set_token(tokens, new_token(peer.node, token, now_ms))
            answer = send_request(invitation, certificate, request)
            has_answered = True
            path = node.pair_folder.token_for(peer.node)
            files.add(FileChange(path, f"{answer.token}\n".encode(), PRIVATE))
            files.commit()
            read_config(options.folder)
    except (FractalError, OSError, KeyboardInterrupt) as error:
        may_be_added = has_answered or isinstance(error, (MaybeJoined, KeyboardInterrupt))
        if not may_be_added:
            raise
        verb = "has" if has_answered else "may have"
        reason = str(error) or "interrupted"
        raise HalfJoined(
            f"{reason}. Nothing was changed here, but node {peer.node} {verb} added this node. Join"
            f" the nodes again, or run there: fractal-rm pair remove {node.own.node}"
        ) from error
    return answer


@pair.command()
@click.argument("node")
@config_option
@json_option
def remove(node: str, folder: Path, as_json: bool) -> int:
    """Remove a joined NODE from this node: its entry, its certificate and both tokens.

    Run this on both nodes. A running node notices it within a second. Its own address and
    certificate stay. Exits 1 if NODE is not joined.
    """
    check_node_id(node)  # it becomes a part of the names of files
    config = read_config(folder)
    joined = PairFolder(config)
    nodes_conf = folder / "nodes.conf"
    text = read_text(nodes_conf)
    new_text = nodes_without(text, config.nodes, node, joined)
    paths = [joined.certificate_of(node), joined.token_for(node)]
    paths = [path for path in paths if path.exists()]
    changes = [FileChange(path, None) for path in paths]
    shown = [joined.in_configuration(path) for path in paths]
    if new_text != text:
        changes.insert(0, FileChange(nodes_conf, new_text.encode()))
        shown.insert(0, f"nodes.conf: the entry of node {node}")
    with StagedFiles(changes) as files, TokenFile(Path(config.state_path)).changing() as tokens:
        kept = [each for each in tokens if each.name != token_name(node)]
        shown += [f"the token {token_name(node)}"] if len(kept) < len(tokens) else []
        tokens[:] = kept
        files.commit()
    if as_json:
        print_json({"node": node, "removed": shown})
    elif shown:
        _print_written(shown, "removed:", sys.stdout)
    else:
        echo(f"node {node} is not joined with this node")
    return 0 if shown else EXIT_PROBLEMS


def _describe(entry: Entry, address: NodeAddress) -> str:
    if entry.replaced == address.endpoint_url:
        return f"nodes.conf: renews the entry of node {address.node} at {address.url}"
    replaced = "" if entry.replaced is None else f" (replaces {entry.replaced})"
    return f"nodes.conf: node {address.node} at {address.url}{replaced}"


def _json_of(entry: Entry) -> str:
    return json.dumps({entry.name: entry.value}, indent=4, ensure_ascii=False)


def _print_written(lines: list[str], title: str, stream: Any) -> None:
    if lines:
        click.echo(safe_lines(title), file=stream)
        for line in lines:
            click.echo(safe_lines("\n".join(f"  {each}" for each in line.split("\n"))), file=stream)

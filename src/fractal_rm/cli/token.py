"""`token`: make, list and revoke the tokens of a node."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    state_of,
)
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.token_file import TokenFile
from fractal_rm.domain.access import Scope, scope_texts
from fractal_rm.domain.tokens import TOKEN_BYTES, Token, check_name, digest_of, token_text

DEFAULT_DAYS = 365
_SCOPES = [scope.value for scope in Scope]


@click.group()
def token() -> None:
    """Make, list and revoke tokens: what other machines send to use the HTTP interface.

    A client sends its token in each request: `Authorization: Bearer TOKEN`. The node keeps only a
    checksum of it, in tokens.json in the state folder. A running node notices every change.
    """


@token.command("new")
@click.argument("name")
@click.option(
    "--scope",
    "scope_names",
    type=click.Choice(_SCOPES),
    multiple=True,
    required=True,
    help="What the token allows: trigger starts runs; read lists flows and runs; payload shows"
    " payloads and results; operate pauses and drains; admin allows everything. May be repeated.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=DEFAULT_DAYS,
    show_default=True,
    help="After how many days the token expires.",
)
@config_option
@json_option
def new(name: str, scope_names: tuple[str, ...], days: int, folder: Path, as_json: bool) -> None:
    """Make a token with a NAME, and print it once. It cannot be shown again."""
    text = token_text(secrets.token_bytes(TOKEN_BYTES))
    now_ms = SystemClock().now_ms()
    made = Token(
        name=name,
        sha256=digest_of(text),
        scopes=[scope for scope in Scope if scope.value in scope_names],
        created_ms=now_ms,
        expires_ms=now_ms + timedelta(days=days) // timedelta(milliseconds=1),
    )
    with TokenFile(state_of(folder)).changing() as tokens:
        check_name(name, tokens)
        tokens.append(made)
    if as_json:
        print_json({"name": name, "token": text, "expires_ms": made.expires_ms})
        return
    echo(text)
    echo(
        f"The token {name} ({', '.join(scope_texts(made.scopes))}) expires at"
        f" {moment(made.expires_ms or 0)[:16]}. Store it now: it is not shown again.",
        err=True,
    )


@token.command("list")
@config_option
@json_option
def list_tokens(folder: Path, as_json: bool) -> None:
    """List the tokens, without the secrets."""
    tokens = TokenFile(state_of(folder)).read()
    if as_json:
        print_json({"tokens": [_shown(each) for each in tokens]})
        return
    now_ms = SystemClock().now_ms()
    rows = [
        (
            each.name,
            ",".join(scope_texts(each.scopes)),
            moment(each.created_ms)[:16],
            "never" if each.expires_ms is None else moment(each.expires_ms)[:16],
            "expired" if each.has_expired(now_ms) else "valid",
        )
        for each in tokens
    ]
    print_table(("name", "scopes", "created", "expires", "state"), rows, "there are no tokens")


@token.command("revoke")
@click.argument("name")
@config_option
@json_option
def revoke(name: str, folder: Path, as_json: bool) -> int:
    """Revoke the token with this NAME. A running node refuses it at its next request.

    Exits 1 if there is no such token.
    """
    with TokenFile(state_of(folder)).changing() as tokens:
        remaining = [each for each in tokens if each.name != name]
        was_there = len(remaining) < len(tokens)
        tokens[:] = remaining
    if as_json:
        print_json({"name": name, "revoked": was_there})
    else:
        echo(f"revoked {name}" if was_there else f"there is no token {name}")
    return 0 if was_there else EXIT_PROBLEMS


def _shown(each: Token) -> dict[str, object]:
    return {
        "name": each.name,
        "scopes": scope_texts(each.scopes),
        "created_ms": each.created_ms,
        "expires_ms": each.expires_ms,
    }

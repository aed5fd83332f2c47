"""Checks the JMESPaths of a flow: removes their quotes, and explains their errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from fractal_rm.domain.evaluation_context import compile_path
from fractal_rm.domain.findings import did_you_mean
from fractal_rm.domain.flow_errors import NotJson

_BARE = re.compile(r"[A-Za-z_]\w*(?:\[[-0-9:*]*\])*|[*@]", re.ASCII)
_KEY = re.compile(r"[\w -]+")
MAX_CHARACTERS = 500  # jmespath reads a path recursively, so a long path may raise RecursionError


class PathError(Exception):
    """The text is not a JMESPath. ``hint`` says what to write instead."""

    def __init__(self, text: str, hint: str | None = None) -> None:
        super().__init__(text)
        self.hint = hint


def read_path(text: str) -> str:
    """Check the path after a dot, and return it without quotes.

    Raises PathError. Raises OSError if no file descriptor is free to load the JMESPath library.
    """
    quoted = text.startswith('"')
    path = _unquoted(text) if quoted else text
    if not path:
        raise PathError("a path is missing after the dot")
    if len(path) > MAX_CHARACTERS:
        raise PathError(f"a path has at most {MAX_CHARACTERS} characters")
    try:
        compiled = compile_path(path)
    except RecursionError:
        raise PathError("this path is nested too deeply") from None
    except NotJson as error:
        raise PathError(str(error)) from None
    except OSError:  # the library is imported with the first path
        raise
    except Exception as error:  # noqa: BLE001 - foreign code, and any text may come here
        raise PathError(_error_text(error, path), _hint(path)) from None
    for name in _function_names(compiled.parsed):
        if name not in compiled.known_functions:
            functions = compiled.known_functions
            raise PathError(f"JMESPath has no function {name}", did_you_mean(name, functions))
    return path


def _unquoted(text: str) -> str:
    try:
        return msgspec.json.decode(text, type=str)
    except ValueError:
        raise PathError("this path in quotes is not a JSON text") from None


def _error_text(error: Exception, path: str) -> str:
    at = getattr(error, "lex_position", getattr(error, "lexer_position", len(path)))
    if isinstance(at, int) and at < len(path):
        return f"this is not a JMESPath: character {at + 1} ({path[at]}) is wrong"
    return "this JMESPath is not complete"


def _hint(path: str) -> str | None:
    """What to write instead, if the mistake is a frequent one. Otherwise None."""
    parts = path.split(".")
    if any(part.isdigit() for part in parts):
        return "write the index of a list element in brackets: [0]"
    special_keys = [part for part in parts if not _BARE.fullmatch(part)]
    if all(_KEY.fullmatch(part) for part in special_keys):
        corrected_path = ".".join(
            f'\\"{part}\\"' if part in special_keys else part for part in parts
        )
        character = "a space" if " " in path else "a special character"
        return f'write quotes around a key with {character}: "{corrected_path}"'
    if "?" in path and "`" not in path:
        return "write a value within a path in backticks: [?score > `0.5`]"
    return None


def _function_names(tree: Any) -> Iterator[str]:
    """The names of the functions that a path calls."""
    nodes: list[Any] = [tree]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, dict):  # not a node: the bound of a slice
            continue
        fields = cast("dict[str, Any]", node)
        if fields["type"] == "function_expression":
            yield str(fields["value"])
        nodes += fields["children"]

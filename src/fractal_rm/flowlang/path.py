"""JMESPaths in a flow: out of their quotes, and what is wrong with them, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import msgspec

from fractal_rm.domain.findings import did_you_mean
from fractal_rm.domain.flow_errors import NoJson
from fractal_rm.domain.seen import compiled

_BARE = re.compile(r"[A-Za-z_]\w*(?:\[[-0-9:*]*\])*|[*@]", re.ASCII)
_KEY = re.compile(r"[\w -]+")
MOST_CHARACTERS = 500  # jmespath reads a path recursively


class NoPath(Exception):
    """The text is not a JMESPath, and what helps."""

    def __init__(self, why: str, hint: str | None = None) -> None:
        super().__init__(why)
        self.hint = hint


def read_path(text: str) -> str:
    """The path that stands behind a dot.

    Raises NoPath, OSError where what it takes to read paths cannot be loaded.
    """
    quoted = text.startswith('"')
    path = _unquoted(text) if quoted else text
    if not path:
        raise NoPath("a path is missing after the dot")
    if len(path) > MOST_CHARACTERS:
        raise NoPath(f"a path has at most {MOST_CHARACTERS} characters")
    try:
        tree = compiled(path).parsed
    except RecursionError:
        raise NoPath("this path is nested too deeply") from None
    except NoJson as error:
        raise NoPath(str(error)) from None
    except OSError:  # it is loaded for the first path
        raise
    except Exception as error:  # noqa: BLE001 - foreign code, and any text may come here
        raise NoPath(_why(error, path), _what_helps(path)) from None
    for name in _functions(tree):
        _check_function(name)
    return path


def _unquoted(text: str) -> str:
    try:
        return msgspec.json.decode(text, type=str)
    except ValueError:
        raise NoPath("this path in quotes is not a JSON text") from None


def _why(error: Exception, path: str) -> str:
    at = getattr(error, "lex_position", getattr(error, "lexer_position", len(path)))
    if isinstance(at, int) and at < len(path):
        return f"this is not a JMESPath: see its character {at + 1}, {path[at]}"
    return "this is not a whole JMESPath"


def _what_helps(path: str) -> str | None:
    """The slips that are made in paths."""
    parts = path.split(".")
    if any(part.isdigit() for part in parts):
        return "an element of a list is picked by its number in brackets: [0]"
    odd = [part for part in parts if not _BARE.fullmatch(part)]
    if all(_KEY.fullmatch(part) for part in odd):
        right = ".".join(f'\\"{part}\\"' if part in odd else part for part in parts)
        sign = "a space" if " " in path else "such a sign"
        return f'a key with {sign} has quotes of its own: "{right}"'
    if "?" in path and "`" not in path:
        return "a value within a path stands in backticks: [?score > `0.5`]"
    return None


def _functions(tree: Any) -> Iterator[str]:
    """The names of the functions that a path calls."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):  # the bounds of a slice stand among the nodes
            continue
        found = cast("dict[str, Any]", node)
        if found["type"] == "function_expression":
            yield str(found["value"])
        waiting += found["children"]


def _check_function(name: str) -> None:
    import jmespath.functions  # noqa: PLC0415 - see `compiled`

    known = cast("dict[str, object]", jmespath.functions.Functions.FUNCTION_TABLE)
    if name not in known:
        raise NoPath(f"JMESPath has no function {name}", did_you_mean(name, known))

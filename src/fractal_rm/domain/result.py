"""Results: what an answer comes to.

A text, carried as the JSON string that it will be in a body; or bytes, where it is no text. The
result of a RUN may be any JSON.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from encodings.aliases import aliases
from functools import lru_cache
from typing import Union

import msgspec
from msgspec import UNSET, Raw, UnsetType

from fractal_rm.domain.call import Reply
from fractal_rm.domain.strict_json import MARK

# JSON text, or bytes that are no text. To tell them apart, ask whether it is a Raw: that is no
# `bytes`, but its stub says so.
StepResult = Union[msgspec.Raw, bytes]

NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:-]+)', re.IGNORECASE)
# These are no text, and have no charset: a server that names one names it for all that it sends.
_NO_TEXT = re.compile(
    r"(image|audio|video|font)/|application/(octet-stream|pdf|zip)", re.IGNORECASE
)

# A component names the charset, so only those are read that cost what the text is long and yield
# nothing but characters. Of what Python has besides, punycode takes the square of the length, and
# unicode_escape and UTF-7 yield halves of surrogate pairs, which no JSON can hold.
SMALL_CODECS = frozenset({
    "utf_8", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le",
    "ascii", "latin_1", *(f"iso8859_{part}" for part in (*range(2, 12), *range(13, 17))),
    *(f"cp125{page}" for page in range(9)), "koi8_r", "koi8_u",
})  # fmt: skip
LARGE_CODECS = frozenset({
    "gb2312", "gbk", "gb18030", "big5", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949",
})  # fmt: skip
_CODECS = SMALL_CODECS | LARGE_CODECS
# Python is not asked for any other name: it would keep every name that it was ever asked for.
_BY_NAME = {codec: codec for codec in _CODECS} | {
    alias: codec for alias, codec in aliases.items() if codec in _CODECS
}


def result_of(reply: Reply) -> StepResult:
    """The body as text in its charset, or as bytes where it is not valid in that.

    The charset is UTF-8 where none is named, or one that is not read here, and where the body
    begins with a byte order mark in UTF-8, which is certain of it (WHATWG Encoding, 6).
    """
    return restored(*stored_result_of(reply))


def stored_result_of(reply: Reply) -> tuple[msgspec.Raw, bytes | UnsetType]:
    """What `result_of` finds, as `stored` has it."""
    codec = _codec(reply.head)
    if codec != "utf_8" and reply.body.startswith(BOM_UTF8):
        codec = "utf_8"
    try:
        return Raw(_encode(reply.body.decode(codec))), UNSET
    except UnicodeDecodeError:
        return NULL, reply.body


def text_of(reply: Reply) -> str | None:
    """The text that `result_of` finds, or None."""
    result = result_of(reply)
    return msgspec.json.decode(result, type=str) if isinstance(result, msgspec.Raw) else None


@lru_cache(maxsize=32)
def _codec(head: bytes) -> str:
    """What a head says of the text under it: a server sends the same one again and again."""
    if b"charset" not in head.lower():  # hardly one says it
        return "utf_8"
    kind = Reply(0, head, b"").header("content-type") or ""
    named = None if _NO_TEXT.match(kind) else _CHARSET.search(kind)
    return _BY_NAME.get(named[1].lower().replace("-", "_"), "utf_8") if named else "utf_8"


def in_charset(text: str, head: bytes) -> bytes:
    """The bytes that `result_of` reads as this text under a head.

    Raises UnicodeEncodeError where its charset does not have a character.
    """
    return text.encode("utf_8" if text.startswith(MARK) else _codec(head))


def stored(result: StepResult) -> tuple[msgspec.Raw, bytes | UnsetType]:
    """The two fields of a fact that keep a result: JSON, and bytes where it is bytes."""
    return (result, UNSET) if isinstance(result, msgspec.Raw) else (NULL, result)


def restored(json: msgspec.Raw, data: bytes | UnsetType) -> StepResult:
    """The result that the two fields of a fact keep."""
    return json if data is UNSET else data


def as_shown(result: StepResult) -> msgspec.Raw:
    """A result as JSON, for people and other programs: bytes are ``{"base64": "…"}``."""
    if isinstance(result, msgspec.Raw):
        return result
    return msgspec.Raw(msgspec.json.encode({"base64": result}))


def size_of(result: StepResult) -> int:
    """How many bytes it keeps in memory."""
    return len(memoryview(result))

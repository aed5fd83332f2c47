"""Results of steps, made from responses.

A result is a text, kept as a JSON string because it will be one in a body; or bytes, if the
response is not text. The result of a RUN may be any JSON.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from encodings.aliases import aliases
from functools import lru_cache
from typing import Union

import msgspec
from msgspec import UNSET, Raw, UnsetType

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.strict_json import BYTE_ORDER_MARK

# JSON text, or bytes that are not text. Tell them apart by `isinstance(result, Raw)`: a Raw is no
# `bytes` at run time, though its type stub says so.
StepResult = Union[msgspec.Raw, bytes]

NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:-]+)', re.IGNORECASE)
# Not text, whatever charset is given: some servers add the same charset to all content types.
_NOT_TEXT = re.compile(
    r"(image|audio|video|font)/|application/(octet-stream|pdf|zip)", re.IGNORECASE
)

# A component chooses the charset, so only codecs are used that take linear time and produce valid
# characters. Of Python's other codecs, punycode takes quadratic time, and unicode_escape and UTF-7
# produce halves of surrogate pairs, which JSON cannot contain.
SMALL_CODECS = frozenset({
    "utf_8", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le",
    "ascii", "latin_1", *(f"iso8859_{part}" for part in (*range(2, 12), *range(13, 17))),
    *(f"cp125{page}" for page in range(9)), "koi8_r", "koi8_u",
})  # fmt: skip
LARGE_CODECS = frozenset({
    "gb2312", "gbk", "gb18030", "big5", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949",
})  # fmt: skip
_CODECS = SMALL_CODECS | LARGE_CODECS
# Python is never asked for another name: it would cache each name that it was asked for.
_BY_NAME = {codec: codec for codec in _CODECS} | {
    alias: codec for alias, codec in aliases.items() if codec in _CODECS
}


def result_of(reply: HttpResponse) -> StepResult:
    """The body as text in its charset, or as bytes if it is not valid text in that charset.

    The charset is UTF-8 if none or an unsupported one is given, and if the body begins with the
    UTF-8 byte order mark, which takes precedence (WHATWG Encoding, 6).
    """
    return result_from_fields(*fields_of_response(reply))


def fields_of_response(reply: HttpResponse) -> tuple[msgspec.Raw, bytes | UnsetType]:
    """The result of a response, as the two fields that `stored` returns."""
    codec = _codec(reply.head)
    if codec != "utf_8" and reply.body.startswith(BOM_UTF8):
        codec = "utf_8"
    try:
        return Raw(_encode(reply.body.decode(codec))), UNSET
    except UnicodeDecodeError:
        return NULL, reply.body


def text_of(reply: HttpResponse) -> str | None:
    """The body as text, or None if `result_of` returns bytes."""
    result = result_of(reply)
    return msgspec.json.decode(result, type=str) if isinstance(result, msgspec.Raw) else None


@lru_cache(maxsize=32)
def _codec(head: bytes) -> str:
    """The codec for the body under a head. Cached: a server sends the same heads repeatedly."""
    if b"charset" not in head.lower():  # true of most heads
        return "utf_8"
    kind = HttpResponse(0, head, b"").header("content-type") or ""
    named = None if _NOT_TEXT.match(kind) else _CHARSET.search(kind)
    return _BY_NAME.get(named[1].lower().replace("-", "_"), "utf_8") if named else "utf_8"


def encode_for(text: str, head: bytes) -> bytes:
    """Encode a text so that `result_of` decodes it again under this head.

    Raises UnicodeEncodeError if the charset lacks a character.
    """
    return text.encode("utf_8" if text.startswith(BYTE_ORDER_MARK) else _codec(head))


def fields_of_result(result: StepResult) -> tuple[msgspec.Raw, bytes | UnsetType]:
    """A result as the two fields of a fact: JSON, and bytes if it is bytes."""
    return (result, UNSET) if isinstance(result, msgspec.Raw) else (NULL, result)


def result_from_fields(json: msgspec.Raw, data: bytes | UnsetType) -> StepResult:
    """The result from the two fields of a fact."""
    return json if data is UNSET else data


def display_json(result: StepResult) -> msgspec.Raw:
    """A result as JSON for display and for other programs: bytes become ``{"base64": "…"}``."""
    if isinstance(result, msgspec.Raw):
        return result
    return msgspec.Raw(msgspec.json.encode({"base64": result}))


def size_of(result: StepResult) -> int:
    """The size of a result in bytes."""
    return len(memoryview(result))

"""The results of steps, which are made from responses.

A result is a text, or bytes if the response is not text. A text is stored as a JSON string, so that
it can be copied into bodies. The result of a RUN may be any JSON.
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

# JSON text, or bytes that are not text. Use `isinstance(result, Raw)` to distinguish these: at run
# time a Raw is not `bytes`, although its type stub says so.
StepResult = Union[msgspec.Raw, bytes]

NULL = msgspec.Raw(b"null")
_encode = msgspec.json.Encoder().encode

_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:-]+)', re.IGNORECASE)
# Content types that are never text. Some servers add a charset to all content types.
_NOT_TEXT = re.compile(
    r"(image|audio|video|font)/|application/(octet-stream|pdf|zip)", re.IGNORECASE
)

# A component chooses the charset. So only codecs that take linear time and produce valid characters
# are used. Of Python's other codecs, punycode takes quadratic time, and unicode_escape and UTF-7
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
# All other names are unsupported. Python's own lookup is not used, because it caches each name.
_BY_NAME = {codec: codec for codec in _CODECS} | {
    alias: codec for alias, codec in aliases.items() if codec in _CODECS
}


def result_of(reply: HttpResponse) -> StepResult:
    """The body of a response: text if it is valid in its charset, otherwise bytes.

    The charset is UTF-8 if the response names no charset, or an unsupported charset. It is also
    UTF-8 if the body begins with the byte order mark of UTF-8, whatever charset the response names
    (WHATWG Encoding, 6).
    """
    return result_from_fields(*fields_of_response(reply))


def fields_of_response(reply: HttpResponse) -> tuple[msgspec.Raw, bytes | UnsetType]:
    """The result of a response, as two fields of a fact (see `fields_of_result`)."""
    codec = _codec(reply.head)
    if codec != "utf_8" and reply.body.startswith(BOM_UTF8):
        codec = "utf_8"
    try:
        return Raw(_encode(reply.body.decode(codec))), UNSET
    except UnicodeDecodeError:
        return NULL, reply.body


def text_of(reply: HttpResponse) -> str | None:
    """The body of a response as text, or None if it is not text."""
    result = result_of(reply)
    return msgspec.json.decode(result, type=str) if isinstance(result, msgspec.Raw) else None


@lru_cache(maxsize=32)
def _codec(head: bytes) -> str:
    """The codec for the body of a response. Cached, as many responses have the same head."""
    if b"charset" not in head.lower():  # most heads name no charset
        return "utf_8"
    kind = HttpResponse(0, head, b"").header("content-type") or ""
    charset = None if _NOT_TEXT.match(kind) else _CHARSET.search(kind)
    return _BY_NAME.get(charset[1].lower().replace("-", "_"), "utf_8") if charset else "utf_8"


def encode_for(text: str, head: bytes) -> bytes:
    """Encode a text in the charset of a response, so that `result_of` returns the same text.

    Raises UnicodeEncodeError if the charset lacks a character.
    """
    return text.encode("utf_8" if text.startswith(BYTE_ORDER_MARK) else _codec(head))


def fields_of_result(result: StepResult) -> tuple[msgspec.Raw, bytes | UnsetType]:
    """The two fields that store a result in a fact: JSON and UNSET, or null and the bytes."""
    return (result, UNSET) if isinstance(result, msgspec.Raw) else (NULL, result)


def result_from_fields(json: msgspec.Raw, data: bytes | UnsetType) -> StepResult:
    """The result that is stored in two fields of a fact (see `fields_of_result`)."""
    return json if data is UNSET else data


def display_json(result: StepResult) -> msgspec.Raw:
    """A result as JSON, for people and other programs. Bytes become ``{"base64": "…"}``."""
    if isinstance(result, msgspec.Raw):
        return result
    return msgspec.Raw(msgspec.json.encode({"base64": result}))

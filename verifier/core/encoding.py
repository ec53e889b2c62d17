"""Strict JSON and base64url: the encodings of requests, tokens and key files."""

import decimal
import json
import re
from typing import Any

import orjson
import pybase64

_TEXTS = {
    "not_base64url": "is not valid unpadded base64url",
    "not_utf8": "is not UTF-8",
    "not_json": "is not valid JSON",
    "not_object": "is not a JSON object",
    "duplicate_key": "has a duplicate key",
    "too_complex": "is nested too deeply or has too many objects and lists",
}


class DecodeError(ValueError):
    """Input that is not strict JSON or base64url.

    `cause` is a key of the table above, and the end of the name of a `Reason`; `str()` continues a sentence
    that begins with the name of the input ("the file ...").
    """

    def __init__(self, cause: str) -> None:
        super().__init__(_TEXTS[cause])
        self.cause = cause


MAX_DEPTH = 128
MAX_CONTAINERS = 1000  # objects and lists in a request or token
MAX_FILE_CONTAINERS = 1_000_000  # in a file of the operator: 1,000 applications, a large JWK Set
_SURROGATE = re.compile("[\ud800-\udfff]")  # a character that UTF-8 cannot encode
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
_SQUARE = bytes.maketrans(b"{}", b"[]")
# Where orjson refuses what JSON allows: an unpaired surrogate, or a number beyond the range of a float.
_JSON_BUT_NOT_ORJSON = re.compile(r"\\u[dD][89a-fA-F]|-?[0-9]")
_FORTY_DIGITS = decimal.Context(prec=40, traps=[])  # beyond its exponents: zero or infinite


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise DecodeError("duplicate_key")
    return members


def _reject_constant(_: str) -> None:
    raise DecodeError("not_json")  # NaN and Infinity (RFC 8259 §6)


def _parse_int(digits: str) -> int | float:
    # As orjson does. int() takes quadratic time; as a float, a very long number becomes inf, which every rule rejects.
    value = int(digits) if len(digits) <= 20 else 2**64
    return value if -(2**63) <= value < 2**64 else _parse_float(digits)


def _parse_float(text: str) -> float:
    # 40 digits decide: float() takes 50 µs to compare 700 of them where the number is halfway between two floats.
    return float(text if len(text) <= 64 else _FORTY_DIGITS.create_decimal(text))


_decode = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_reject_constant, parse_int=_parse_int, parse_float=_parse_float
).raw_decode


def loads_object(data: bytes, *, max_containers: int = MAX_CONTAINERS) -> dict[str, Any]:
    """Parse one JSON object in UTF-8, and reject everything that parsers disagree about.

    Rejects a duplicate key at any depth (two parsers that keep different values see two different tokens,
    RFC 8725 §2.4), NaN, a byte order mark, more than 128 levels, and more objects and lists than `max_containers`.
    All passes over the input run in C, because hostile input must not cost much more than a valid token.

    Raises:
        DecodeError: with the cause.
    """
    flat = data.find(b"[") < 0 and data.rfind(b"{") <= 0
    many = not flat and data.count(b"[") + data.count(b"{") > MAX_DEPTH
    brackets = _brackets(data) if many else b""
    if brackets.count(b"[") > max_containers:
        raise DecodeError("too_complex")
    try:
        value = orjson.loads(data)
        encoded = orjson.dumps(value)
    except TypeError:  # deeper than orjson can encode: 254 levels
        raise DecodeError("too_complex") from None
    except orjson.JSONDecodeError as exc:
        value = _loads_other(data, exc, max_containers // 4)
    else:
        # Text that is the same when it is encoded again has no duplicate key. In other text, the strings are counted.
        if encoded != data and _count_quotes(encoded) != _count_quotes(data):
            raise DecodeError("duplicate_key")
    if _is_deep(brackets):
        raise DecodeError("too_complex")
    if not isinstance(value, dict):
        raise DecodeError("not_object")
    return value


def _without_escaped_quotes(data: bytes) -> bytes:
    return data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data


def _count_quotes(data: bytes) -> int:
    return _without_escaped_quotes(data).count(b'"')


def _brackets(data: bytes) -> bytes:
    """Return the brackets of a JSON document that are in no string, all of them square."""
    # Two quotes in a row end and begin a string, or the reverse: without them, what is between the others is the same.
    structure = _without_escaped_quotes(data).translate(_SQUARE, _NOT_STRUCTURE).replace(b'""', b"")
    return b"".join(structure.split(b'"')[::2])


def _is_deep(brackets: bytes) -> bool:
    """Return whether there are more than MAX_DEPTH levels: each pass removes the innermost one."""
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _loads_other(data: bytes, exc: json.JSONDecodeError, max_commas: int) -> Any:
    """Parse what orjson rejected, if it can be JSON all the same.

    Each value takes several times as long as with orjson, so there may be fewer of them.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise DecodeError("not_utf8") from exc
    if _JSON_BUT_NOT_ORJSON.match(text, exc.pos) is None:
        raise DecodeError("not_json") from exc
    if data.count(b",") > max_commas:
        raise DecodeError("too_complex") from exc
    try:
        text = text.strip(" \t\n\r")
        value, end = _decode(text)
    except RecursionError:
        raise DecodeError("too_complex") from None
    except json.JSONDecodeError as error:
        raise DecodeError("not_json") from error
    if end != len(text):
        raise DecodeError("not_json")
    return value


_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# By length modulo 4: the padding that was left out, and the last characters whose spare bits are zero.
_ENDS = (("", _ALPHABET), ("", ""), ("==", _ALPHABET[::16]), ("=", _ALPHABET[::4]))


def b64url_encode(data: bytes) -> str:
    """Encode as base64url without padding (RFC 7515 §2)."""
    return pybase64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Decode canonical base64url without padding: no white space, no other alphabet, no spare bits that are not zero.

    Raises:
        DecodeError: anything else; every value has exactly one encoding.
    """
    padding, last = _ENDS[len(text) % 4]
    try:
        # The decoder takes "+" and "/" as well, and "=" at the end.
        if text[-1:] not in last or "+" in text or "/" in text:
            raise ValueError
        return pybase64.b64decode(text + padding, b"-_", validate=True)  # 0.5 µs less than binascii, 20 for 8 KB
    except ValueError as exc:
        raise DecodeError("not_base64url") from exc


def is_utf8_encodable(value: object) -> bool:
    """Return whether a JSON value is a string that UTF-8 can encode; one with an unpaired surrogate is not."""
    return isinstance(value, str) and (value.isascii() or _SURROGATE.search(value) is None)


# Characters that are shown as nothing although they count as printable (Unicode: Default_Ignorable_Code_Point, blanks).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_QUOTES = ('""', "''", "``", "\u201c\u201d", "\u2018\u2019")


def describe_flaw(text: str) -> str:
    """Describe what makes a text look like another one on a screen, or return "".

    The description continues a sentence that begins with the name of the text: whitespace at an end, quotes around it,
    control, format and other characters that are not visible.
    """
    for position, character in enumerate(text, start=1):
        if not character.isprintable() or _INVISIBLE.match(character):
            return f"contains an unprintable character (U+{ord(character):04X} at position {position})"
    if text != text.strip():
        return "begins or ends with a space"
    if len(text) > 1 and text[0] + text[-1] in _QUOTES:
        return "is in quotes"
    return ""


def printable(text: str) -> str:
    """Escape every character that a terminal or a log would not show as it is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)

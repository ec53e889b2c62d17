"""Shapes of JSON text, good and bad: each a function from a size in bytes to a text of about that size."""

from collections.abc import Callable
from decimal import Decimal, localcontext

from bench.kinds import fill

Shape = Callable[[int], bytes]
HALVES = (-64, -1050, 250, 950)


def _numbered(form: bytes, before: bytes, after: bytes, separator: bytes = b",") -> Shape:
    """As many distinct entries as fit: `form` takes a number of five digits."""

    def make(size: int) -> bytes:
        count = (size - len(before) - len(after)) // (len(form % 10_000) + len(separator))
        return before + separator.join(form % (10_000 + number) for number in range(count)) + after

    return make


def _repeated(unit: bytes, before: bytes = b"", after: bytes = b"") -> Shape:
    return lambda size: fill(unit, size, before, after)


def _nested(opening: bytes, closing: bytes, inner: bytes = b"1", most: int = 10**6) -> Shape:
    def make(size: int) -> bytes:
        depth = min(most, (size - len(inner)) // (len(opening) + len(closing)))
        return opening * depth + inner + closing * depth

    return make


def _wide_and_deep(depth: int) -> Shape:
    """A list of lists, each as deep as may be."""
    return lambda size: fill(b"[" * depth + b"]" * depth + b",", size, b"[", b"1]")


def _halves(exponent: int, before: bytes = b"") -> Shape:
    """Numbers in the middle between two floats, which are only decided by all of their digits."""
    with localcontext() as context:
        context.prec = 2_000
        number = str(Decimal(2**54 + 1) * Decimal(2) ** exponent).replace("E", "e").encode()
    return _repeated(number + b",", b"[" + before, b"1]")


SHAPES: dict[str, Shape] = {
    "opening brackets": _repeated(b"["),
    "opening braces": _repeated(b"{"),
    "opening brackets behind a string": _repeated(b"[", b'{"a":"x","b":'),
    "closing brackets": _repeated(b"]"),
    "nested lists": _nested(b"[", b"]"),
    "nested objects": _nested(b'{"a":', b"}"),
    "lists and objects in turn": _nested(b'[{"a":', b"}]"),
    "lists nested 100 deep": _nested(b"[", b"]", most=100),
    "lists nested 100 deep, side by side": _wide_and_deep(100),
    "lists nested 15 deep, side by side": _wide_and_deep(15),
    "objects nested 15 deep, side by side": lambda size: fill(
        b'{"a":' * 15 + b"1" + b"}" * 15 + b",", size, b"[", b"1]"
    ),
    "a list of empty lists": _repeated(b"[],", b"[", b"1]"),
    "a list of empty objects": _repeated(b"{},", b"[", b"1]"),
    "a list of objects with one member": _repeated(b'{"a":1},', b"[", b"1]"),
    "a list of objects with a member twice at the end": _repeated(b'{"a":1},', b"[", b'{"a":1,"a":2}]'),
    "a list of objects, each with a member twice": _repeated(b'{"a":1,"a":1},', b"[", b"1]"),
    "brackets in a string": _repeated(b"[", b'{"a":"', b'"}'),
    "brackets in strings": _repeated(b'"[{",', b"[", b"1]"),
    "brackets and escaped quotes in a string": _repeated(b'[\\"', b'{"a":"', b'"}'),
    "distinct members": _numbered(b'"%d":1', b"{", b"}"),
    "distinct members, the first again": _numbered(b'"%d":1', b"{", b',"10000":1}'),
    "one member again and again": _repeated(b'"a":1,', b"{", b'"a":1}'),
    "one member twice": lambda size: b'{"a":1,"b":"' + b"x" * (size - 20) + b'","a":1}',
    "a member in two spellings": _numbered(b'"%d":1', b"{", b',"\\u0061":1,"a":1}'),
    "a member of long name": _repeated(b"a", b'{"', b'":1}'),
    "members of objects of members": _repeated(b'"a":{"b":1,"c":2},', b'{"x":[{', b'"d":1}]}'),
    "numbers": _repeated(b"1,", b"[", b"1]"),
    "numbers, then NaN": _repeated(b"1,", b"[", b"NaN]"),
    "numbers, then a comma": _repeated(b"1,", b"[", b"]"),
    "numbers of 19 digits": _repeated(b"1234567890123456789,", b"[", b"1]"),
    "numbers of 21 digits": _repeated(b"123456789012345678901,", b"[", b"1]"),
    "numbers of 100 digits": _repeated(b"1" * 100 + b",", b"[", b"1]"),
    "numbers of 4,000 digits": _repeated(b"1" * 4000 + b",", b"[", b"1]"),
    "a number of all digits": _repeated(b"1", b"[", b"]"),
    "a number of zeros": _repeated(b"0", b"[1", b"]"),
    "a number with a leading zero at the end": _repeated(b"1,", b"[", b"01]"),
    "fractions": _repeated(b"1.5,", b"[", b"1]"),
    "fractions, then NaN": _repeated(b"1.5,", b"[", b"NaN]"),
    "fractions that round": _repeated(b"0.30000000000000004441,", b"[", b"1]"),
    "a fraction of all digits": _repeated(b"3", b"[1.", b"]"),
    "a fraction of zeros": _repeated(b"0", b"[1.", b"1]"),
    "exponents": _repeated(b"1e300,", b"[", b"1]"),
    "exponents, then NaN": _repeated(b"1e300,", b"[", b"NaN]"),
    "exponents beyond a float": _repeated(b"1e999,", b"[", b"1]"),
    "numbers behind one beyond a float": _repeated(b"1,", b"[1e999,", b"1]"),
    "numbers before one beyond a float": _repeated(b"1,", b"[", b"1e999]"),
    "200 numbers behind one beyond a float": lambda size: b"[1e999" + b",1" * 200 + b" " * (size - 410) + b"]",
    "200 objects behind one beyond a float": lambda size: b"[1e999" + b',{"a":1}' * 200 + b" " * (size - 2000) + b"]",
    "exponents below a float": _repeated(b"1e-999,", b"[", b"1]"),
    "an exponent of all digits": _repeated(b"9", b"[1e", b"]"),
    "halves of floats": _repeated(b"9007199254740993.0,", b"[", b"1]"),
    "halves of small floats": _halves(-1050),
    **{f"a surrogate, halves of floats, 2^{exponent}": _halves(exponent, b'"\\ud83d",') for exponent in HALVES},
    "subnormal numbers": _repeated(b"2.2250738585072011e-308,", b"[", b"1]"),
    "negative zeros": _repeated(b"-0,", b"[", b"1]"),
    "minus signs": _repeated(b"-", b"[", b"1]"),
    "NaN again and again": _repeated(b"NaN,", b"[", b"1]"),
    "Infinity": _repeated(b"1,", b"[-Infinity,", b"1]"),
    "true": _repeated(b"true,", b"[", b"1]"),
    "null": _repeated(b"null,", b"[", b"1]"),
    "empty strings": _repeated(b'"",', b"[", b"1]"),
    "short strings": _repeated(b'"ab",', b"[", b"1]"),
    "distinct strings": _numbered(b'"%d"', b"[", b"]"),
    "short strings, then NaN": _repeated(b'"ab",', b"[", b"NaN]"),
    "one string": _repeated(b"x", b'{"a":"', b'"}'),
    "one string without an end": _repeated(b"x", b'{"a":"'),
    "quotes": _repeated(b'"'),
    "backslashes": _repeated(b"\\\\", b'{"a":"', b'"}'),
    "escaped ASCII": _repeated(b"\\u0041", b'{"a":"', b'"}'),
    "escaped line feeds": _repeated(b"\\n", b'{"a":"', b'"}'),
    "escaped slashes": _repeated(b"\\/", b'{"a":"', b'"}'),
    "escaped letters of other scripts": _repeated(b"\\u0416", b'{"a":"', b'"}'),
    "escaped surrogate pairs": _repeated(b"\\ud83d\\ude00", b'{"a":"', b'"}'),
    "unpaired surrogates": _repeated(b"\\ud83d", b'{"a":"', b'"}'),
    "an escape that is none, at the end": _repeated(b"\\n", b'{"a":"', b'\\x"}'),
    "an escape that is cut off": _repeated(b"\\n", b'{"a":"', b'\\u00"}'),
    "emoji": _repeated("😀".encode(), b'{"a":"', b'"}'),
    "letters of other scripts": _repeated("Ж".encode(), b'{"a":"', b'"}'),
    "letters of Latin-1": _repeated("é".encode(), b'{"a":"', b'"}'),
    "ASCII, then an emoji": _repeated(b"x", b'{"a":"', '😀"}'.encode()),
    "numbers of 308 digits in a string, then a control character": _repeated(b"1" * 308 + b"x", b'{"a":"', b'\x01"}'),
    "strings of colons": _repeated(b'":":":",', b"{ ", b'"a":1}'),
    "control characters in a string": _repeated(b"\x01", b'{"a":"', b'"}'),
    "a control character at the end": _repeated(b"x", b'{"a":"', b'\x01"}'),
    "DEL": _repeated(b"\x7f", b'{"a":"', b'"}'),
    "zero bytes": _repeated(b"\x00"),
    "invalid UTF-8": _repeated(b"\xff"),
    "invalid UTF-8 at the end": _repeated(b"x", b'{"a":"', b'\xff"}'),
    "overlong UTF-8": _repeated(b"\xc0\xaf", b'{"a":"', b'"}'),
    "surrogates in UTF-8": _repeated(b"\xed\xa0\x80", b'{"a":"', b'"}'),
    "UTF-16": lambda size: ('{"a":"' + "x" * (size // 2 - 10) + '"}').encode("utf-16"),
    "a byte order mark": _repeated(b"x", b'\xef\xbb\xbf{"a":"', b'"}'),
    "white space": _repeated(b" "),
    "white space before": _repeated(b" ", b"", b'{"a":1}'),
    "white space behind": _repeated(b" ", b'{"a":1}'),
    "white space within": _repeated(b" ", b'{"a":', b"1}"),
    "white space around numbers": _repeated(b" \t1 \n,", b"[", b"1]"),
    "line feeds": _repeated(b"\r\n", b'{"a":', b"1}"),
    "more behind the end": _repeated(b"x", b'{"a":1}'),
    "a document behind another": _repeated(b'{"a":1}'),
    "commas": _repeated(b",", b"["),
    "colons": _repeated(b":", b'{"a"'),
    "letters": _repeated(b"x"),
    "comments": _repeated(b"/*x*/", b"{", b'"a":1}'),
    "single quotes": _repeated(b"'a':1,", b"{", b"}"),
    "form fields": _repeated(b"code=x&"),
    "markup": _repeated(b"<a>", b"<html>"),
}

"""Strict JSON and base64url: one spelling per value, one answer per input."""

import itertools
import json
import math
import re
import string
import time
from contextlib import suppress
from decimal import Decimal, localcontext

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verifier.core.encoding import (
    MAX_FILE_CONTAINERS,
    DecodeError,
    b64url_decode,
    b64url_encode,
    describe_flaw,
    is_utf8_encodable,
    loads_object,
)

TOO_COMPLEX = "is nested too deeply or has too many objects and lists"
TEXTS = {"is not UTF-8", "is not valid JSON", TOO_COMPLEX, "is not a JSON object", "has a duplicate key"}
ALPHABET = string.ascii_letters + string.digits + "-_"

any_text = st.text(st.characters(exclude_categories=()))  # also unpaired surrogates
scalars = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | any_text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3), max_leaves=5
)
finite = st.dictionaries(any_text, values, max_size=3).filter(lambda members: "Infinity" not in json.dumps(members))
json_like = st.lists(
    st.sampled_from(['{"', '":', '"', "{", "}", "[", "]", ",", "1", "-", ".", "e9", "NaN", "null", "\\ud800", "a", "é"])
).map("".join)


def refusal(data):
    with pytest.raises(ValueError) as caught:
        loads_object(data)
    return str(caught.value)


# --- JSON


@given(finite)
@settings(deadline=None, max_examples=30)
def test_an_object_is_read_as_it_was_written(members):
    assert loads_object(json.dumps(members).encode()) == members


@given(st.binary() | json_like.map(str.encode) | finite.map(json.dumps).map(lambda text: text[:-1].encode()))
@example(b"")
@settings(deadline=None, max_examples=100)
def test_any_bytes_give_an_object_or_one_of_five_texts(data):
    try:
        assert isinstance(loads_object(data), dict)
    except ValueError as exc:
        assert str(exc) in TEXTS
        assert type(exc) is DecodeError


names = st.sampled_from(["a", "b", "é", "\\u0061", "\\ud83d", '\\"', "\\u0022", "\\\\", "\\u005c", ":", '":\\"'])
numbers = st.sampled_from(["0", "-0", "1.0", "1e3", "1E400", "18446744073709551616", "-9223372036854775809", "NaN"])
texts = st.recursive(
    numbers | finite.map(lambda members: json.dumps(members, separators=(",", ":"), ensure_ascii=False)),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]")
        | st.lists(st.tuples(names, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
        )
    ),
)


@given(texts)
@example('{"a":1,"a":1}')
@example('{"a":{"b":[],"b":[]}}')
@example('{"\ud800":null}')
@settings(deadline=None, max_examples=200)
def test_json_is_read_as_a_parser_with_hooks_reads_it(text):
    def unique(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(_):
        raise AssertionError

    def integer(digits):
        return int(digits) if -(2**63) <= int(digits) < 2**64 else float(digits)

    try:
        expected = json.loads(text, object_pairs_hook=unique, parse_constant=refuse, parse_int=integer)
    except (AssertionError, ValueError):
        expected = None
    data = text.encode("utf-8", "surrogatepass")
    if isinstance(expected, dict) and is_utf8_encodable(text):
        assert repr(loads_object(data)) == repr(expected)
    else:
        refusal(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b'{"a": 1, "b": 2, "a": 1}', "has a duplicate key", id="twice"),
        pytest.param(b'{"a": 1, "\\u0061": 2}', "has a duplicate key", id="twice-once-escaped"),
        pytest.param(b'{"a": [{"b": {"c": 1, "c": 2}}]}', "has a duplicate key", id="twice-deep-inside"),
        pytest.param(b'[{"a": 1, "a": 2}]', "has a duplicate key", id="twice-in-a-list"),
        pytest.param(b'{"a": NaN}', "is not valid JSON", id="nan"),
        pytest.param(b'{"a": Infinity}', "is not valid JSON", id="infinity"),
        pytest.param(b'{"a": -Infinity}', "is not valid JSON", id="minus-infinity"),
        pytest.param(b'{"a": 1,}', "is not valid JSON", id="trailing-comma"),
        pytest.param(b"{'a': 1}", "is not valid JSON", id="single-quotes"),
        pytest.param(b'{"a": 01}', "is not valid JSON", id="leading-zero"),
        pytest.param(b'{"a": "\n"}', "is not valid JSON", id="raw-newline-in-a-string"),
        pytest.param(b'{"a": 1} {}', "is not valid JSON", id="two-objects"),
        pytest.param(b'{"a": 1e999} {}', "is not valid JSON", id="two-objects-behind-infinity"),
        pytest.param(b'{"a": 1', "is not valid JSON", id="cut-off"),
        pytest.param(b"", "is not valid JSON", id="empty"),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', "is not valid JSON", id="byte-order-mark"),
        pytest.param('{"a": 1}'.encode("utf-16-le"), "is not valid JSON", id="utf-16-le"),
        pytest.param('{"a": 1}'.encode("utf-16"), "is not UTF-8", id="utf-16-with-mark"),
        pytest.param(b'{"a": "\xff"}', "is not UTF-8", id="latin-1"),
        pytest.param(b'{"a": "\xed\xa0\xbd"}', "is not UTF-8", id="half-a-pair-in-utf-8"),
        pytest.param(b"[1]", "is not a JSON object", id="list"),
        pytest.param(b'"a"', "is not a JSON object", id="string"),
        pytest.param(b"null", "is not a JSON object", id="null"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", TOO_COMPLEX, id="100000-deep"),
    ],
)
def test_what_parsers_disagree_about_is_refused(data, says):
    assert loads_object(b'{"a": 1, "b": 2}') == {"a": 1, "b": 2}
    assert refusal(data) == says


@pytest.mark.parametrize(
    ("digits", "number"),
    [
        pytest.param(str(2**64 - 1), 2**64 - 1, id="largest-of-64-bits"),
        pytest.param(str(2**64), float(2**64), id="one-more"),
        pytest.param(str(-(2**63)), -(2**63), id="smallest-of-64-bits"),
        pytest.param(str(-(2**63) - 1), float(-(2**63)), id="one-less"),
        pytest.param("9" * 308, float("9" * 308), id="308-digits"),
        pytest.param("9" * 309, math.inf, id="309-digits"),
        pytest.param("-" + "9" * 16_000, -math.inf, id="16000-digits"),
        pytest.param("9" * 18, 10**18 - 1, id="18-digits"),
        pytest.param("-" + "9" * 18, 1 - 10**18, id="minus-and-18-digits"),
        pytest.param("1e308", 1e308, id="largest-exponent"),
        pytest.param("1E+309", math.inf, id="beyond-a-float"),
    ],
)
def test_an_integer_of_64_bits_stays_whole_and_any_other_number_is_a_float(digits, number):
    # The last one is read by the other parser, because an unpaired surrogate is JSON.
    for text in (f'{{"a": {digits}}}', f'{{"a":{digits}}}', f'{{"a":{digits},"b":"\\ud800"}}'):
        value = loads_object(text.encode())["a"]
        assert (type(value), value) == (type(number), number)


@pytest.mark.parametrize(
    ("digits", "number"),
    [
        pytest.param("9" * 21, 1e21, id="21-digits"),
        pytest.param("-" + "9" * 20, -1e20, id="minus-and-20-digits"),
        pytest.param("9" * 309, float("inf"), id="309-digits"),
        pytest.param("9" * 10_000, float("inf"), id="more-digits-than-int-reads"),
        pytest.param("-" + "9" * 10_000, float("-inf"), id="minus-more-digits-than-int-reads"),
    ],
)
def test_an_integer_of_21_characters_becomes_a_float(digits, number):
    for text in (f'{{"a": {digits}}}', f'{{"a":{digits}}}'):
        value = loads_object(text.encode())["a"]
        assert (type(value), value) == (float, number)


# --- base64url


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(bytes([3, 236, 255, 224, 193]), "A-z_4ME", id="rfc7515-appendix-c"),
        pytest.param(b"", "", id="rfc4648-10-empty"),
        pytest.param(b"f", "Zg", id="rfc4648-10-f"),
        pytest.param(b"fo", "Zm8", id="rfc4648-10-fo"),
        pytest.param(b"foo", "Zm9v", id="rfc4648-10-foo"),
        pytest.param(b"foob", "Zm9vYg", id="rfc4648-10-foob"),
    ],
)
def test_published_base64url_is_read_and_written(data, text):
    assert b64url_encode(data) == text
    assert b64url_decode(text) == data


@given(st.binary())
@settings(deadline=None, max_examples=100)
def test_bytes_survive_base64url(data):
    assert b64url_decode(b64url_encode(data)) == data


@given(st.text(st.sampled_from(ALPHABET + "+/=\n \t.é\ud800"), max_size=9) | any_text)
@settings(deadline=None, max_examples=200)
def test_a_text_that_decodes_is_the_only_spelling_of_its_bytes(text):
    try:
        data = b64url_decode(text)
    except ValueError:
        return
    assert b64url_encode(data) == text


def test_of_all_texts_of_two_characters_one_stands_for_each_byte():
    accepted = []
    for pair in itertools.product(ALPHABET, repeat=2):
        try:
            accepted.append(b64url_decode("".join(pair)))
        except ValueError:
            continue
    assert sorted(accepted) == [bytes([n]) for n in range(256)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("_-8=", id="padding"),
        pytest.param("_-8==", id="more-padding"),
        pytest.param("/+8", id="the-other-alphabet"),
        pytest.param("_-9", id="spare-bits"),
        pytest.param("_-8\n", id="newline-after"),
        pytest.param(" _-8", id="space-before"),
        pytest.param("_\t-8", id="tab-inside"),
        pytest.param("_-8.", id="dot"),
    ],
)
def test_another_spelling_of_two_bytes_is_refused(text):
    assert b64url_decode("_-8") == b"\xff\xef"
    with pytest.raises(ValueError, match=f"^{re.escape('is not valid unpadded base64url')}$"):
        b64url_decode(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("_", id="one-character"),
        pytest.param("Zm9vY", id="five-characters"),
        pytest.param("_-é", id="not-ascii"),
        pytest.param("_-\ud800", id="half-a-pair"),
    ],
)
def test_what_no_bytes_encode_to_is_refused(text):
    with pytest.raises(ValueError):
        b64url_decode(text)


# --- text


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("é\u0000\n", id="control-characters"),
        pytest.param("\U0001f600", id="beyond-16-bits"),
        pytest.param("\ue000", id="first-after-the-surrogates"),
        pytest.param("\ud7ff", id="last-before-the-surrogates"),
    ],
)
def test_a_string_that_utf_8_carries_is_text(value):
    assert is_utf8_encodable(value) is True


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("\ud800", id="first-surrogate"),
        pytest.param("a\udfff", id="last-surrogate"),
        pytest.param("\ud83d\ude00", id="a-pair-in-two-escapes"),
        pytest.param(b"a", id="bytes"),
        pytest.param(1, id="number"),
        pytest.param(None, id="none"),
        pytest.param(["a"], id="list"),
    ],
)
def test_an_unpaired_surrogate_and_other_types_are_not_text(value):
    assert is_utf8_encodable(value) is False


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_128_levels_pass_and_one_more_does_not():
    assert loads_object(nested(128)) == json.loads(nested(128))
    with pytest.raises(ValueError, match=f"^{TOO_COMPLEX}$"):
        loads_object(nested(129))
    with pytest.raises(ValueError, match=f"^{TOO_COMPLEX}$"):
        loads_object(nested(300))  # more than orjson encodes


def test_depth_beyond_the_recursion_limit_is_too_complex_for_either_parser():
    deep = b'{"b":"\\ud800","a":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001
    with pytest.raises(DecodeError, match=f"^{TOO_COMPLEX}$"):
        loads_object(deep, max_containers=MAX_FILE_CONTAINERS)


def test_brackets_that_do_not_nest_are_no_depth():
    document = {"a": [[]] * 500, "b": "[" * 500, 'c\\"[': '"[\\' * 200}
    assert loads_object(json.dumps(document).encode()) == document


@pytest.mark.parametrize(
    "odd", [b'"\\ud800"', b'"\\udc00"', b"1e999", b"-1.5E+400"], ids=["high", "low", "inf", "minus"]
)
def test_a_document_that_only_the_slower_parser_reads_has_fewer_values(odd):
    def document(commas: int) -> bytes:
        return b'{"\xc3\xa9":["\xf0\x9f\x98\x80",%b%b]}' % (odd, b",1" * (commas - 1))

    assert loads_object(document(250)) == json.loads(document(250))
    assert loads_object(document(251), max_containers=MAX_FILE_CONTAINERS) == json.loads(document(251))
    assert refusal(document(251)) == TOO_COMPLEX
    assert refusal(document(250)[:-1]) == "is not valid JSON"
    assert refusal(document(250).replace(b",1]", b",NaN]")) == "is not valid JSON"


def test_no_document_takes_long_to_refuse_or_to_read():
    size = 16_000
    shapes = {
        "whole numbers behind infinity": b'{"a":[1e999,' + b"1," * (size // 2) + b"1]}",
        "objects behind infinity": b'{"a":[1e999,' + b'{"a":1},' * 999 + b"1]}",
        "digits": b'{"a":"' + (b"1" * 308 + b"a") * (size // 309) + b'\x01"}',
        "strings of brackets": b'{"a":[' + b'"[{",' * (size // 5) + b"1]}",
        "strings of colons": b'{ "a":[' + b'{":":":"},' * 990 + b"1]}",
    }
    normal = b'{"a":[' + b'"abcdefg",' * (size // 10) + b"1]}"
    cost = {name: least_time(data) for name, data in (shapes | {"normal": normal}).items()}
    assert max(cost.values()) < 10 * cost["normal"], cost


@pytest.mark.parametrize("exponent", [-1050, -500, 950])
def test_a_number_that_only_its_last_digit_decides_takes_no_longer_than_another(exponent):
    with localcontext() as context:
        context.prec = 2_000
        half = str(Decimal(2**54 + 1) * Decimal(2) ** exponent)  # in the middle between two floats
    digits = half.partition("E")[0]
    other = half.replace(digits, digits[:20] + "7" * (len(digits) - 20))

    def cost(number: str) -> float:
        return least_time(('{"a":["\\ud800"' + f",{number}" * (16_000 // len(number)) + "]}").encode())

    assert loads_object(b'{"a":["\\ud800",%b]}' % half.encode())["a"][1] == pytest.approx(float(half), rel=1e-15)
    assert cost(half) < 4 * cost(other)


@given(st.from_regex(r"-?[1-9][0-9]{0,200}(\.[0-9]{0,150}[1-9])?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_a_number_has_the_same_value_for_both_parsers(number):
    expected = float(number)
    assert as_float(loads_object(b'{"a":["\\ud800",%b]}' % number.encode())["a"][1]) == expected
    if math.isfinite(expected):
        assert as_float(loads_object(b'{"a":%b}' % number.encode())["a"]) == expected


def as_float(number: object) -> float:
    assert isinstance(number, int | float)
    return float(number)


def least_time(data: bytes) -> float:
    times = []
    for _ in range(20):
        began = time.process_time()
        with suppress(DecodeError):
            loads_object(data)
        times.append(time.process_time() - began)
    return min(times)


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        ("", ""),
        ("'", ""),
        ("''", "is in quotes"),
        ("'a'", "is in quotes"),
        ("'a", ""),
        (" a", "begins or ends with a space"),
        ("a b", ""),
        ("a\u034f", "contains an unprintable character (U+034F at position 2)"),
    ],
)
def test_what_makes_a_text_look_like_another_is_described(text, flaw):
    assert describe_flaw(text) == flaw

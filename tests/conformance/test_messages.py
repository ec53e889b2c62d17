"""URLs and responses are parsed strictly."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifier.conformance.messages import Request, Response, Url, parse_object


@pytest.mark.parametrize(
    ("text", "insecure", "shown", "target", "other"),
    [
        ("https://game.example", False, "https://game.example:443/", "/", "//"),
        ("https://game.example/a?b=c", False, "https://game.example:443/a", "/a?b=c", "/a/?b=c"),
        ("http://127.9.9.9:81/a/", False, "http://127.9.9.9:81/a/", "/a/", "/a"),
        ("http://[::1]/a", False, "http://[::1]:80/a", "/a", "/a/"),
        ("http://localhost/a", False, "http://localhost:80/a", "/a", "/a/"),
        ("http://game.example/a", True, "http://game.example:80/a", "/a", "/a/"),
    ],
)
def test_a_url_is_split(text, insecure, shown, target, other):
    url = Url.parse(text, allow_http=insecure)
    assert (str(url), url.target(toggle_slash=False), url.target(toggle_slash=True)) == (shown, target, other)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected https://host/path"),
        ("game.example/profile", r"^https:// is missing \(expected https://game.example/profile\)$"),
        ("game.example:8443/p?key=1", r"^https:// is missing \(expected https://game.example:8443/p\)$"),
        ("localhost:8000/profile", r"^http:// is missing \(expected http://localhost:8000/profile\)$"),
        ("127.0.0.1:8000", r"^http:// is missing \(expected http://127.0.0.1:8000\)$"),
        ("[::1]/profile", r"^http:// is missing \(expected http://\[::1\]/profile\)$"),
        ("user:pass@game.example/", "without credentials"),
        ("//game.example/profile", "^expected https://host/path, without spaces and in ASCII$"),
        ("https:/game.example/profile", "^expected https://host/path, without spaces and in ASCII$"),
        ("/profile", "^expected https://host/path, without spaces and in ASCII$"),
        ("game.example:x/profile", r"^expected https://host/path \("),
        ("ftp://game.example/", "expected https://host/path, without spaces and in ASCII$"),
        ("https:///profile", "expected https://host/path, without spaces and in ASCII$"),
        ("https://game.example/a b", "expected https://host/path"),
        ("https://game.example/\u00e9", "expected https://host/path"),
        ("https://game.example:99999/", "Port out of range"),
        ("https://user:pass@game.example/", "without credentials"),
        ("https://game.example/#a", "without a #fragment"),
        ("http://game.example/", "plain http exposes the secret"),
        ("http://10.0.0.1/", "plain http exposes the secret"),
    ],
)
def test_an_unusable_url_is_rejected(text, problem):
    with pytest.raises(ValueError, match=problem):
        Url.parse(text)


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_a_response_without_a_date_has_no_clock_offset(headers):
    assert Response(200, headers, b"").clock_offset_s == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://[", "expected https://host/path (Invalid IPv6 URL)"),
        ("https://game.example:0/", "expected https://host/path (port 0 cannot be used)"),
        ("https://game.example:x/", "expected https://host/path (Port could not be cast to integer value as 'x')"),
        ('https://a"b/', "expected https://host/path (the host is neither a name nor an address)"),
        ("https://a..b/", "expected https://host/path (the host is neither a name nor an address)"),
        ("https://a\\b/", "expected https://host/path (the host is neither a name nor an address)"),
        ("https://%67ame.example/", "expected https://host/path (the host is neither a name nor an address)"),
        ("https://game.example/\n", "expected https://host/path, without spaces and in ASCII"),
        ("https://game.example/\x7f", "expected https://host/path, without spaces and in ASCII"),
        ("https://user@game.example/", "expected a URL without credentials and without a #fragment"),
        (
            "http://128.0.0.1/",
            "plain http exposes the secret to the network; use https, or --insecure for a test network",
        ),
    ],
)
def test_the_problem_of_a_url_is_named(text, problem):
    with pytest.raises(ValueError) as caught:
        Url.parse(text)
    assert str(caught.value) == problem


@pytest.mark.parametrize("text", ["https://a_b-c.example./!~", "https://[2001:db8::1]:65535/", "HTTPS://192.0.2.1"])
def test_unusual_urls_are_accepted(text):
    url = Url.parse(text)
    assert (url.https, str(url).startswith("https://")) == (True, True)
    assert url.endpoint == f"{url.host} port {url.port}"


@given(st.text() | st.builds("http://{}".format, st.text(st.characters(max_codepoint=127))))
def test_parsing_a_url_raises_nothing_but_value_error(text):
    with contextlib.suppress(ValueError):
        str(Url.parse(text, allow_http=True)).encode("ascii")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": 1,}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": "\xff"}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1' + b"0" * 309 + b"}",
        b'{"a": -1' + b"0" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"\\udc00": 1}',
        b'{"a": ' + b"[" * 200_000,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_not_a_safe_json_object_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"^not (JSON|a JSON object)$"):
        parse_object(data)
    response = Response(200, {}, data)
    assert (response.members, response.is_profile) == (None, False)


def test_the_largest_numbers_and_a_pair_of_surrogates_are_accepted():
    data = b'{"a": 1e308, "b": 1' + b"0" * 308 + b', "c": "\\ud83d\\ude00"}'
    assert parse_object(data) == {"a": 1e308, "b": 10**308, "c": "\U0001f600"}


@given(st.binary() | st.text().map(str.encode))
def test_parsing_json_raises_nothing_but_value_error(data):
    with contextlib.suppress(ValueError):
        parse_object(data)


@pytest.mark.parametrize(
    ("status", "body", "is_2xx", "is_profile"),
    [
        (199, b'{"_id": "1"}', False, False),
        (200, b'{"_id": "1"}', True, True),
        (299, b'{"_id": 1}', True, True),
        (300, b'{"_id": "1"}', False, False),
        (200, b'{"_id": null}', True, False),
        (200, b'{"id": "1"}', True, False),
        (200, b'["_id"]', True, False),
    ],
)
def test_a_profile_is_a_2xx_with_an_id(status, body, is_2xx, is_profile):
    response = Response(status, {}, body)
    assert (response.is_2xx, response.is_profile) == (is_2xx, is_profile)


@pytest.mark.parametrize(
    ("date", "offset"),
    [
        ("Thu, 01 Jan 1970 00:01:00 GMT", 10.5),
        ("Thu, 01 Jan 1970 00:00:40 GMT", -9.5),
        ("Thu, 01 Jan 1970 01:00:40 +0100", -9.5),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 +9999999999999999", 0.0),
        ("", 0.0),
    ],
)
def test_the_clock_offset_is_measured_when_the_response_arrives(date, offset):
    assert Response(200, {"date": date}, b"", received_at=50.0).clock_offset_s == offset


def test_a_request_is_a_post_of_json_and_shows_nothing_private():
    request = Request(b"body", "token", "secret", {"_id": "1"})
    assert repr(request) == (
        "Request(method='POST', headers={'Content-Type': 'application/json'}, toggle_slash=False, chunked=False)"
    )
    assert "body" not in repr(Response(200, {}, b"body"))

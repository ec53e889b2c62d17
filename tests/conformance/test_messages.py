"""URLs and responses are parsed strictly."""

import pytest

from verifier.conformance.messages import Response, Url


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
    ("text", "says"),
    [
        ("", "expected https://host/path"),
        ("game.example/profile", "expected https://host/path"),
        ("ftp://game.example/", "expected https://host/path"),
        ("https:///profile", "expected https://host/path"),
        ("https://game.example/a b", "expected https://host/path"),
        ("https://game.example/\u00e9", "expected https://host/path"),
        ("https://game.example:99999/", "Port out of range"),
        ("https://user:pass@game.example/", "without credentials"),
        ("https://game.example/#a", "without a #fragment"),
        ("http://game.example/", "plain http exposes the secret"),
        ("http://10.0.0.1/", "plain http exposes the secret"),
    ],
)
def test_an_unusable_url_is_rejected(text, says):
    with pytest.raises(ValueError, match=says):
        Url.parse(text)


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_a_response_without_a_date_has_no_clock_offset(headers):
    assert Response(200, headers, b"").clock_offset_s == 0

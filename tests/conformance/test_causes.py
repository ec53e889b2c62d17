"""The likely cause of a failure is named."""

import pytest

from verifier.conformance.causes import likely_cause
from verifier.conformance.messages import Response, Url


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ((301, {"location": "https://x.example/?code=1"}, b""), "redirect to https://x.example/; "),
        ((502, {"via": "1.1 edge"}, b"<html>"), "proxy: 1.1 edge responds"),
        ((503, {"server": "nginx"}, b""), "proxy: nginx responds"),
        ((504, {}, b""), "proxy: a proxy responds"),
        ((404, {}, b"<html>"), "path: nothing is served at /profile"),
        ((405, {}, b""), "method: "),
        ((429, {}, b""), "rate limit: "),
        ((401, {}, b'{"error": "invalid_client"}'), "credentials: the endpoint has another"),
        ((400, {}, b'{"error": "invalid_token"}'), "token: "),
        ((200, {"content-type": "text/html"}, b""), "HTML: a web page"),
        ((403, {}, b" <!doctype html>"), "HTML: an error page of a firewall"),
        ((415, {}, b""), "media type: "),
        ((403, {}, b""), "credentials: the application id, the secret or the token"),
        ((422, {}, b"[" * 100_000), "request: "),
        ((500, {}, b"{"), "crash: "),
        ((200, {}, b"[]"), "not JSON: "),
        ((200, {}, b"{}"), "members: "),
        ((200, {}, b'{"_id": "1"}'), ""),
        ((410, {}, b""), ""),
    ],
)
def test_the_likely_cause_is_named(answer, cause):
    found = likely_cause(Response(*answer), Url.parse("https://game.example/profile"))
    assert "; ".join(found).startswith(cause)
    assert (bool(found.text), bool(found.fix)) == (bool(cause), bool(cause))

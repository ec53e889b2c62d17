"""The properties of every response, with the last value that has them and the first that does not."""

import json
from typing import Any

import pytest

from tests.conformance.support import certificate, context, failures
from verifier.conformance import cases
from verifier.conformance.invariants import INVARIANTS, Interaction, clock_skew
from verifier.conformance.messages import Request, Response

CASES = {case.id: case for case in cases.CASES}
NOW = 1_800_000_000.0
GOOD_HEADERS = {
    "content-type": "application/json",
    "cache-control": "no-store",
    "date": "Fri, 15 Jan 2027 08:00:00 GMT",
}
ERROR = {"error": "invalid_token", "error_description": "no"}


def violations(case: str, status: int, body: Any = None, **changes: Any) -> dict[str, str]:
    """Which invariants a response violates, and how; correct except for the changes."""
    headers = {name: value for name, value in (GOOD_HEADERS | changes.pop("headers", {})).items() if value is not None}
    content = body if isinstance(body, bytes) else json.dumps(ERROR if body is None else body).encode()
    request = Request(**{"token": "a-long-token", "secret": "a-long-secret"} | changes.pop("request", {}))
    response = Response(status, headers, content, received_at=NOW, **changes)
    interaction = Interaction(CASES[case], request, response)
    return {i.id: text for i in INVARIANTS if (text := i.violation(interaction))}


@pytest.mark.parametrize(
    ("case", "status", "body", "found"),
    [
        ("alg-none", 401, None, {}),
        ("alg-none", 403, None, {"rejection-status": "403, expected 401"}),
        ("alg-none", 400, None, {"rejection-status": "400, expected 401"}),
        ("alg-none", 200, ERROR, {"rejection-2xx": "200 without a profile"}),
        ("alg-none", 204, b"", {"rejection-2xx": "204 without a profile"}),
        ("alg-none", 200, {"_id": "1"}, {}),  # accepted: the case itself fails
        ("alg-none", 302, b"", {"no-redirect": "302"}),
        ("alg-none", 399, b"", {"no-redirect": "399"}),
        ("alg-none", 500, b"", {"no-crash": "500"}),
        ("crit", 200, ERROR, {"rejection-status": "200, expected 401"}),  # level should
        ("body-text", 400, {"error": "invalid_request", "error_description": "no"}, {}),
        ("body-text", 422, {"error": "x", "error_description": "no"}, {"rejection-status": "422, expected 400"}),
        ("method-put", 404, {"error": "x", "error_description": "no"}, {}),  # the case itself fails
        ("body-large", 502, b"", {}),  # a proxy's
        ("body-large", 413, {"error": "invalid_request", "error_description": "no"}, {}),
        ("profile-full", 200, {"_id": "1"}, {}),
        ("profile-full", 401, None, {}),
    ],
)
def test_the_status_of_a_rejection(case, status, body, found):
    assert violations(case, status, body) == found


@pytest.mark.parametrize(
    ("case", "body", "problem"),
    [
        ("alg-none", ERROR, ""),
        ("kid-path", ERROR, ""),
        ("aud-other", ERROR, ""),
        ("secret-wrong", {"error": "invalid_client", "error_description": "no"}, ""),
        ("secret-wrong", ERROR, "error is not invalid_client"),
        ("alg-none", {"error": "invalid_client", "error_description": "no"}, "error is not invalid_token"),
        ("alg-none", {"error": "invalid_token"}, "other JSON"),
        ("alg-none", ERROR | {"trace": "x"}, "other JSON"),
        ("alg-none", {"error": "invalid_token", "error_description": None}, "other JSON"),
        ("alg-none", {"error": 401, "error_description": "no"}, "other JSON"),
        ("alg-none", b"no", "not JSON"),
        ("alg-none", {}, "not JSON"),
    ],
)
def test_the_json_of_an_error(case, body, problem):
    assert violations(case, 401, body) == ({"error-json": problem} if problem else {})


def test_the_code_of_an_error_is_compared_where_the_status_is_right():
    assert violations("body-text", 400, ERROR) == {"error-json": "error is not invalid_request"}
    assert violations("body-text", 499, ERROR) == {"rejection-status": "499, expected 400"}
    assert violations("type-text", 415, ERROR) == {"error-json": "error is not invalid_request"}


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"content-type": "Application/JSON; charset=utf-8", "cache-control": "private, No-Store"}, {}),
        ({"content-type": "text/plain"}, {"json-type": "another Content-Type"}),
        ({"content-type": None}, {"json-type": "another Content-Type"}),
        ({"cache-control": "no-cache"}, {"no-store": "no Cache-Control: no-store"}),
        ({"cache-control": None}, {"no-store": "no Cache-Control: no-store"}),
        ({"x-debug": "token=a-long-token"}, {"no-echo": "repeats the secret or the token"}),
        ({"date": "Fri, 15 Jan 2027 08:00:04 GMT"}, {}),  # 4.5 s
        ({"date": "Fri, 15 Jan 2027 08:00:05 GMT"}, {"clock": "6 s ahead"}),  # 5.5 s
        ({"date": "Fri, 15 Jan 2027 07:59:55 GMT"}, {}),
        ({"date": "Fri, 15 Jan 2027 07:59:54 GMT"}, {"clock": "6 s behind"}),
        ({"date": None}, {}),
    ],
)
def test_the_headers_of_a_response(headers, found):
    assert violations("alg-none", 401, headers=headers) == found


@pytest.mark.parametrize(
    ("request_", "text", "is_echo"),
    [
        ({}, "a-long-secret", True),
        ({}, "a-long-token", True),
        ({"secret": "12345678"}, "12345678", True),
        ({"secret": "1234567"}, "1234567", False),  # short values occur by chance
        ({"secret": True}, "True", False),
    ],
)
def test_a_response_does_not_repeat_the_secret_or_the_token(request_, text, is_echo):
    body = ERROR | {"error_description": f"not {text}"}
    expected = {"no-echo": "repeats the secret or the token"} if is_echo else {}
    assert violations("alg-none", 401, body, request=request_) == expected


@pytest.mark.parametrize(("duration_s", "found"), [(1.0, {}), (1.06, {"fast": "1.1 s"})])
def test_a_slow_response_is_reported(duration_s, found):
    assert violations("alg-none", 401, duration_s=duration_s) == found


@pytest.mark.parametrize(
    ("days", "found"),
    [(14.0, {}), (13.9, {"certificate": "expires in 13 days"}), (0.4, {"certificate": "expires in 0 days"})],
)
def test_a_certificate_has_days_left(days, found):
    assert violations("alg-none", 401, certificate_days=days) == found


@pytest.mark.parametrize(("offset", "text"), [(5, ""), (5.5, "6 s ahead"), (-5, ""), (-90, "90 s behind")])
def test_the_skew_of_a_clock_is_described(offset, text):
    date = "Fri, 15 Jan 2027 08:00:00 GMT"
    assert clock_skew(Response(200, {"date": date}, b"", received_at=NOW - offset + 0.5)) == text


@pytest.mark.parametrize(("days", "should"), [(14.1, set()), (13.9, {"certificate"})])
def test_a_certificate_that_ends_soon_is_reported(serve, pairs, tmp_path, monkeypatch, days, should):
    tls, path = certificate(tmp_path, days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    found = failures(serve(tls=tls).url, context(pairs["ES256"]), "certificate", "profile-bare")
    assert found == {"must": set(), "should": should}

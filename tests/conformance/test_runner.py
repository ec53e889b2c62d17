"""How the runner grades responses and when it stops; without a network."""

import json
from typing import Any

import pytest

from tests.conformance.support import PRIVATE, context, valid_token
from tests.conftest import SECRET
from verifier.conformance import runner
from verifier.conformance.causes import NO_CAUSE, Cause
from verifier.conformance.client import NoResponseError
from verifier.conformance.forge import Context
from verifier.conformance.messages import Request, Response, Url
from verifier.conformance.runner import FAIL, PASS, SKIP, Result

URL = Url.parse("http://localhost/profile?key=private")
HEADERS = {"content-type": "application/json", "cache-control": "no-store"}
DOWN = NoResponseError(Cause("connection refused", "start it"))


@pytest.fixture
def grade(pairs, monkeypatch):
    """Run these cases with these responses, in order; the last one repeats."""

    def grade(*only: str, by: Any, given: Context | None = None, timeout_s: float = 5) -> list[Result]:
        responses = iter(by)
        last: list[Any] = []

        def send(url: Url, request: Request, *, timeout_s: float, tls: object) -> Response:
            assert (url, timeout_s, tls) == (URL, 5, None)
            last[:] = [next(responses, last[0] if last else None)]
            found = last[0](request) if callable(last[0]) else last[0]
            if isinstance(found, NoResponseError):
                raise found
            return found

        monkeypatch.setattr(runner, "send", send)
        return list(runner.run(URL, given or context(pairs["ES256"]), runner.select(only), timeout_s))

    return grade


def profile(request: Request) -> Response:
    return Response(200, HEADERS, json.dumps(dict(request.profile)).encode(), 0.25)


def error(status: int = 401, body: Any = None, **headers: str) -> Response:
    content = b"" if body is None else json.dumps(body).encode()
    return Response(status, HEADERS | {name.replace("_", "-"): value for name, value in headers.items()}, content)


def outcomes(results: list[Result]) -> list[tuple[str, str, str, str]]:
    return [(r.item.id, r.outcome, r.level, r.problem) for r in results]


def test_without_a_response_to_the_first_request_the_rest_is_skipped(grade):
    first, *rest = grade(by=[DOWN])
    assert (first.outcome, first.problem, first.cause) == (FAIL, "no response", DOWN.cause)
    assert {(r.outcome, r.problem) for r in rest} == {(SKIP, "no response to the first request")}
    assert len(rest) == len(runner.select(())) - 1


def test_after_three_requests_without_a_response_the_rest_is_skipped(grade):
    results = grade("alg-none", "alg-none-case", "other-key", "crit", "clock", by=[error(), DOWN])
    assert outcomes(results) == [
        ("alg-none", PASS, "must", ""),
        ("alg-none-case", FAIL, "should", "no response"),
        ("other-key", FAIL, "should", "no response"),
        ("crit", FAIL, "should", "no response"),
        ("clock", SKIP, "should", "no response to 3 consecutive requests"),
    ]
    responses = [error(), DOWN, DOWN, error(), DOWN, DOWN, error()]
    results = grade("signature", by=responses)
    assert {r.outcome for r in results} == {PASS, FAIL}


def test_the_request_that_stops_the_run_keeps_its_level(grade):
    results = grade("alg-none", "alg-none-case", "other-key", "sub-missing", by=[error(), DOWN])
    assert [(r.level, r.problem) for r in results[1:]] == [
        ("should", "no response"),
        ("should", "no response"),
        ("must", "no response"),
    ]


def test_a_valid_request_without_a_response_keeps_its_level(grade):
    results = grade("profile-full", "profile-bare", by=[profile, DOWN])
    assert outcomes(results)[1] == ("profile-bare", FAIL, "must", "no response")


def test_when_a_valid_token_is_rejected_the_rest_is_skipped(grade):
    first, *rest = grade(by=[error()])
    assert (first.problem, first.outcome) == ("rejected with 401", FAIL)
    assert {(r.outcome, r.problem) for r in rest} == {(SKIP, "the endpoint must accept a valid token first")}


def test_another_rejected_request_stops_nothing(grade):
    results = grade("profile-full", "profile-bare", "aud-list", by=[profile, error(), profile])
    assert [(r.outcome, r.problem) for r in results] == [(PASS, ""), (FAIL, "rejected with 401"), (PASS, "")]
    assert (results[0].duration_s, results[1].cause) == (0.25, NO_CAUSE)


@pytest.mark.parametrize(
    ("name", "response", "problem"),
    [
        ("alg-none", error(), ""),
        ("alg-none", error(500), ""),
        ("alg-none", error(200, {"_id": "1"}), "accepted"),
        ("alg-none", error(200, {"id": "1"}), ""),
        ("body-text", error(200, {"_id": "1"}), "accepted"),
        ("trailing-slash", error(404), ""),
        ("trailing-slash", error(200, {"_id": "1"}), ""),
        ("trailing-slash", error(308), "308, expected 404"),
        ("method-get", error(405, allow="POST"), ""),
        ("method-get", error(405), "405 without Allow"),
        ("method-get", error(404, allow="POST"), "404, expected 405"),
        ("type-text", error(415), ""),
        ("type-text", error(400), "400, expected 415"),
        ("body-large", error(405), "405 without Allow"),
        ("chunked", profile, ""),
        ("chunked", error(411), "rejected with 411"),
        ("body-extra", error(200, {"_id": "1", "role": "x"}), ""),  # only the group profile compares members
    ],
)
def test_a_response_is_graded(grade, name, response, problem):
    (result,) = grade(name, by=[response])
    assert (result.problem, result.outcome) == (problem, FAIL if problem else PASS)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"_id": PRIVATE[0], "email": PRIVATE[1], "username": PRIVATE[2]}, ""),
        ({"_id": PRIVATE[0]}, "email is missing, username is missing"),
        (
            {"_id": PRIVATE[0], "email": 1, "username": []},
            "email is not a string, or empty, username is not a string, or",
        ),
        ({"_id": PRIVATE[0], "email": "", "username": None}, "email is not a string, or empty, username is null"),
        (
            {"_id": "x" * 9, "email": PRIVATE[1], "username": PRIVATE[2], "a": 1},
            "_id differs from the token, a is not a",
        ),
        ([], "not a JSON object"),
    ],
)
def test_a_profile_is_compared_with_the_claims(grade, pairs, body, problem):
    given = context(pairs["ES256"], key=None, token=valid_token(pairs["ES256"]))
    (result,) = grade("profile-full", by=[error(200, body)], given=given)
    assert result.problem.startswith(problem)
    assert bool(result.problem) == bool(problem)


@pytest.mark.parametrize(("has_key", "problem"), [(True, "email differs from the token"), (False, "")])
def test_a_member_without_a_claim_may_come_from_a_database_unless_the_token_was_signed_here(
    grade, pairs, has_key, problem
):
    token = valid_token(pairs["ES256"], email=None)
    given = context(pairs["ES256"]) if has_key else context(pairs["ES256"], key=None, token=token)

    def respond(request: Request) -> Response:
        return error(200, dict(request.profile) | {"email": "of-the@data.base"})

    (result,) = grade("profile-full", by=[respond], given=given)
    assert result.problem == problem


def cause(grade: Any, response: Any, given: Context | None = None, name: str = "profile-full") -> Cause:
    return grade(name, by=[response], given=given)[0].cause


def described(text: str, status: int = 401, code: str = "invalid_token", **headers: str) -> Response:
    return error(status, {"error": code, "error_description": text}, **headers)


def test_the_reason_of_the_endpoint_is_the_cause(grade):
    assert cause(grade, described("typ is JWT, the default")) == Cause(
        "the endpoint reports: typ is JWT, the default",
        "set typ to at+jwt in the token header when signing; JWT libraries default to JWT",
        "typ_is_jwt",
    )
    assert cause(grade, described("no luck")) == Cause(
        "the endpoint reports: no luck", "compare issuer, public keys and applicationId of the signer and the endpoint"
    )
    assert cause(grade, described("no luck", 410, "gone")) == Cause("the endpoint reports: no luck", "")
    assert cause(grade, described("wrong secret", code="invalid_client")).reason == "client_rejected"
    assert cause(grade, described("keys are stale", 503)) == Cause(
        "the endpoint reports: keys are stale", "see the log of the endpoint"
    )
    assert cause(grade, error(401, {"error": "invalid_client"})).text.startswith("credentials: ")


def test_a_redirect_is_the_cause_whatever_its_body_says(grade):
    response = described("typ is JWT", 302, location="/login")
    assert cause(grade, response).text == "redirect to /login"


def test_only_what_may_happen_to_any_request_is_a_cause_of_a_special_one(grade):
    assert cause(grade, described("typ is JWT"), name="profile-bare") == NO_CAUSE
    assert cause(grade, described("typ is JWT"), name="profile-again").reason == "typ_is_jwt"
    assert cause(grade, error(429), name="profile-bare").text == "rate limit: too many requests"
    assert cause(grade, error(302), name="aud-list").text == "redirect to nowhere"
    assert cause(grade, error(500), name="aud-list").text == "crash: the endpoint failed"
    assert cause(grade, error(402), name="aud-list") == NO_CAUSE


@pytest.fixture
def expired(pairs):
    return context(pairs["ES256"], key=None, token=valid_token(pairs["ES256"], iat=1000, exp=1000.5))


@pytest.mark.parametrize(
    ("response", "text", "reason"),
    [
        (described("token has expired (exp)"), " (the endpoint reports: token has expired (exp))", "token_expired"),
        (described("the key with this kid has expired"), " (the endpoint reports: the key with", "key_expired"),
        (described("no luck", 400), " (the endpoint reports: no luck)", ""),
        (error(403), "", ""),
    ],
)
def test_the_age_of_the_token_is_the_cause_where_the_reason_is_unknown_or_about_time(
    grade, expired, response, text, reason
):
    found = cause(grade, response, expired)
    assert found.text.startswith("time: the token expired ")
    assert f" s ago{text}" in found.text
    assert (found.fix, found.reason) == ("use a new token", reason)


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (described("typ is JWT"), "the endpoint reports: typ is JWT"),
        (described("no", code="invalid_client"), "the endpoint reports: no"),
        (error(401, {"error": "invalid_client"}), "credentials: "),
        (error(500), "crash: "),
        (error(404), "path: "),
        (described("keys are stale", 503), "the endpoint reports: keys"),
    ],
)
def test_the_age_of_the_token_is_no_cause_of_another_reason(grade, expired, response, text):
    assert cause(grade, response, expired).text.startswith(text)


@pytest.mark.parametrize("exp", [True, "1", None, 10**300, 1e300])
def test_an_exp_that_is_no_past_time_is_no_cause(grade, pairs, exp):
    given = context(pairs["ES256"], key=None, token=valid_token(pairs["ES256"], exp=exp))
    assert cause(grade, error(403), given).text.startswith("credentials: ")


def test_an_exp_far_in_the_past_is_a_cause(grade, pairs):
    given = context(pairs["ES256"], key=None, token=valid_token(pairs["ES256"], exp=-(10**300)))
    assert cause(grade, error(403), given).text.startswith("time: the token expired 1")


@pytest.mark.parametrize(("offset", "is_cause"), [(29.9, False), (30.1, True), (-30.1, True)])
def test_clock_skew_above_the_leeway_is_a_cause(grade, offset, is_cause):
    response = Response(403, {"date": "Fri, 15 Jan 2027 08:00:00 GMT"}, b"", received_at=1_800_000_000 - offset + 0.5)
    direction = "ahead" if offset > 0 else "behind"
    expected = f"time: the endpoint's clock is wrong (30 s {direction})" if is_cause else "credentials: "
    assert cause(grade, response).text.startswith(expected)


def test_an_invariant_names_five_cases_and_counts_the_rest(grade):
    names = ("alg-none", "other-key", "crit", "typ-jwt", "kid-missing", "sub-number")
    found = [grade(*names[:n], "no-store", by=[Response(401, {}, b"")])[-1] for n in (1, 5, 6)]
    assert [(r.problem, r.response.count("no Cache-Control"), r.response[-6:]) for r in found] == [
        ("1 response", 1, "store)"),
        ("5 responses", 5, "store)"),
        ("6 responses", 5, "1 more"),
    ]
    assert found[0].response == "alg-none (no Cache-Control: no-store)"
    assert found[1].response.count(", ") == 4
    assert grade("alg-none", "no-redirect", by=[error()])[-1] == Result(
        runner.select(["no-redirect"])[-1], PASS, "should"
    )


def test_a_failure_shows_request_and_response_without_what_is_private(grade, pairs):
    token = valid_token(pairs["ES256"])
    given = context(pairs["ES256"], key=None, token=token)
    body = f"{SECRET} {token} {PRIVATE} " + "x" * 300
    (result,) = grade("profile-full", by=[Response(500, {}, body.encode())], given=given)
    assert (
        result.response
        == ("500, no Content-Type: <withheld> <withheld> ('<withheld>', '<withheld>', '<withheld>') " + "x" * 200)[
            : runner.MAX_SHOWN_CHARACTERS
        ]
    )
    assert result.request == (
        f'POST /profile, a valid token; token header {{"alg": "ES256", "kid": "{pairs["ES256"].kid}", "typ": "at+jwt"}}'
    )
    assert len(result.response) == 200


@pytest.mark.parametrize("value", ["1", "4", "401", "p", "a", "JWT", "token", "report", "player", "application", "e"])
@pytest.mark.parametrize("name", ["sub", "username", "email"])
def test_our_own_texts_are_not_redacted(grade, pairs, name, value):
    """A player id of one character is a usual one in a test."""
    text = f"typ is JWT, the default (1 of 401 errors: p/a {value}@game.example)"
    given = context(pairs["ES256"], key=None, token=valid_token(pairs["ES256"], **{name: value}))
    (result,) = grade("profile-full", by=[described(text, content_type="application/json")], given=given)
    assert result.problem == "rejected with 401"
    assert result.cause.text.startswith("the endpoint reports: ")
    assert f"{value}@game.example" not in result.cause.text
    assert result.cause.reason == "typ_is_jwt"
    assert result.response.startswith("401, ")
    assert result.request.startswith("POST /profile, a valid token; token header {")
    if len(value) == 1:
        assert result.cause.text.startswith("the endpoint reports: typ is JWT, the default (")
        assert '"error_description": "typ is JWT, the default (' in result.response


def test_a_name_of_a_member_that_is_private_is_not_shown(grade, pairs):
    given = context(pairs["ES256"], key=None, token=valid_token(pairs["ES256"]))
    (result,) = grade("profile-full", by=[error(200, {"_id": PRIVATE[0], PRIVATE[2]: 1})], given=given)
    assert result.problem == ("email is missing, username is missing, <withheld> is not a member of a profile")


def test_where_a_redirect_leads_and_who_sends_it_is_shown_without_what_is_private(grade, pairs):
    token = valid_token(pairs["ES256"])
    given = context(pairs["ES256"], key=None, token=token)
    assert cause(grade, error(302, location=f"/{PRIVATE[0]}/{token}/{SECRET}"), given).text == (
        "redirect to /<withheld>/<withheld>/<withheld>"
    )
    assert cause(grade, error(502, via=f"1.1 {PRIVATE[2]}"), given).text.startswith("proxy: 1.1 <withheld> responds")


def test_a_failure_shows_status_and_type_of_the_response(grade):
    (result,) = grade("profile-full", by=[Response(502, {"content-type": "text/html; a=b"}, b"<h1>")])
    assert result.response == "502, text/html; a=b: <h1>"


def test_a_token_that_is_no_jws_is_shown_by_its_length(grade, pairs):
    given = context(pairs["ES256"], key=None, token="opaque")
    (result,) = grade("trailing-slash", by=[error(308)], given=given)
    assert result.request == "POST /profile/, the path with or without the slash; a token of 6 characters"
    (result,) = grade("method-get", by=[error(200)], given=given)
    assert result.request == "GET /profile, GET; a token of 6 characters"


def test_what_the_endpoint_returns_as_a_profile_is_private(grade):
    (result,) = grade("alg-none", by=[error(200, {"_id": "its-id", "email": "its-mail", "username": "its-name"})])
    assert "its-" not in result.response
    assert result.response.count("<withheld>") == 3


def test_a_long_header_of_a_token_is_shortened(grade, pairs):
    key = context(pairs["ES256"]).key
    token = key.token(json.dumps({"alg": "ES256", "x": "y" * 500}).encode(), b"{}")
    (result,) = grade("body-text", by=[error(200, {"_id": "1"})], given=context(pairs["ES256"], key=None, token=token))
    assert len(result.request) == len("POST /profile, not JSON; ") + 200


def test_tls_is_used_for_https_only(pairs, monkeypatch):
    seen: list[Any] = []

    def send(url: Url, _: Request, *, timeout_s: float, tls: object) -> Response:
        seen.append((url.https, tls is not None))
        return error()

    monkeypatch.setattr(runner, "send", send)
    for text in ("https://localhost/", "http://localhost/"):
        list(runner.run(Url.parse(text), context(pairs["ES256"]), runner.select(["alg-none"]), 5))
    assert seen == [(True, True), (False, False)]


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        (["crit"], ["crit"]),
        (["clock"], ["profile-full", "clock"]),
        (["crit", "clock"], ["crit", "clock"]),
        (["client", "no-echo"], [c.id for c in runner.CASES if c.group == "client"] + ["no-echo"]),
        (["responses"], ["profile-full", *(i.id for i in runner.INVARIANTS)]),
    ],
)
def test_cases_are_selected_by_id_or_group(only, chosen):
    assert [item.id for item in runner.select(only)] == chosen


def test_every_unknown_case_is_named():
    with pytest.raises(ValueError, match=r"^unknown case or group: cris, no-such; see --list$"):
        runner.select(["no-such", "crit", "cris"])


@pytest.mark.parametrize(
    ("changes", "needs", "missing"),
    [
        ({}, "key", ""),
        ({}, "ES256", ""),
        ({}, "public key", ""),
        ({"key": None, "token": "opaque"}, "", ""),
        ({"key": None, "token": "opaque"}, "JWS", "the token is not a JWS"),
        ({"key": None, "token": "opaque"}, "key", "needs a key to sign with (--keys or --private-key)"),
        ({"key": None, "token": "eyJhbGciOiJIUzI1NiJ9.e30."}, "public key", "the token is signed with a shared key"),
        ({"key": None, "token": "eyJhbGciOiJIUzI1NiJ9.e30."}, "JWS", ""),
        ({"key": None, "token": "eyJhbGciOiJIUzI1NiJ9.e30."}, "ES256", "the token is not signed with ES256"),
        ({"key": None, "token": "e30.e30."}, "public key", ""),
    ],
)
def test_a_case_that_cannot_be_built_is_explained(pairs, changes, needs, missing):
    assert context(pairs["ES256"], **changes).missing_requirement(needs) == missing

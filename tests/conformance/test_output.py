"""What a run prints: the impact and the fix of each failure, the counts, and what to do next."""

import json
from xml.etree import ElementTree

import pytest

from verifier.conformance import cases, output, runner
from verifier.conformance.causes import Cause
from verifier.conformance.messages import Url
from verifier.conformance.runner import FAIL, PASS, SKIP, Result

URL = Url.parse("https://game.example/profile?key=private")
ALL = {item.id: item for item in runner.select(())}

# The beginning of the impact and of the fix, and which items have them.
ADVICE = {
    ("escs signs the player in with these members; null", "return {_id, email?, username?} from the token's"): (
        "profile-full profile-bare profile-unicode profile-digits profile-extra"
    ),
    ("tokens come from several libraries and clocks", "treat null and empty as absent, accept aud as a list"): (
        "profile-null typ-case aud-list clock-ahead"
    ),
    ("the sender writes the header: a sender that can choose", "tie the algorithm to the key in your code"): (
        "alg-none alg-none-case hs256-secret hs256-empty hs256-public"
    ),
    ("anyone signs in as any player with a token of their", "verify the signature over header and payload before"): (
        "claims-modified signature-empty signature-missing signature-zero signature-truncated other-key "
        "token-modified token-garbage"
    ),
    ("a token with several encodings bypasses deny lists", "accept exactly three parts of canonical base64url"): (
        "signature-der token-padded token-noncanonical token-parts"
    ),
    ("the sender writes the header: a key that it contains", "look kid up in your own key set, compare it as"): (
        "jwk-header jku-header kid-unknown kid-path"
    ),
    ("a mistake of the signer stays unnoticed until", "require typ at+jwt and kid, reject crit, and check the"): (
        "kid-missing typ-jwt crit sub-number sub-duplicate"
    ),
    ("a token that leaked in a log or a URL signs the player", "require exp later than now and nbf not later, in"): (
        "exp-past nbf-future"
    ),
    ("without a maximum, one wrong unit in the signer", "require iat and exp as numbers of seconds, iat not in"): (
        "exp-recent exp-missing exp-string exp-milliseconds exp-far iat-future"
    ),
    ("a token that the player gave to another application", "require aud and iss, and compare the complete"): (
        "aud-other aud-longer aud-missing iss-other"
    ),
    ("escs would get a player without an id", "require sub, a string that is not empty"): "sub-missing",
    ("the secret distinguishes escs from anyone else", "require strings, look the application up, and compare"): (
        "secret-wrong secret-truncated application-unknown secret-missing secret-true secret-operator "
        "application-missing secret-before-token"
    ),
    ("it is the same request; escs may send it in this form", "read the body with a JSON parser and the HTTP parts"): (
        "body-extra type-charset chunked"
    ),
    ("a request that escs does not send needs a clear", "respond 400 with {error, error_description} unless the"): (
        "body-empty body-text body-list body-latin1 body-deep code-missing secret-duplicate no-crash"
    ),
    ("a clear status shows the caller what to change", "accept POST (else 405 with Allow) and application/json"): (
        "type-text encoded body-large method-get method-put trailing-slash"
    ),
    ("one bad request must not lock out the next player", "process each request independently; if a rate"): (
        "profile-again"
    ),
    ("escs may treat any 2xx as a success", "respond 401 to a rejected token or secret and 400 to a request"): (
        "rejection-2xx rejection-status"
    ),
    ("a developer reads the reason in the response", "respond to every error with application/json and {error:"): (
        "error-json json-type"
    ),
    (
        "a cache between escs and the endpoint may store the",
        "set Cache-Control: no-store on every response",
    ): "no-store",
    ("a client that follows it resends the secret", "turn off redirects for slashes and hosts"): "no-redirect",
    (
        "responses are logged, and the secret with them",
        "respond with fixed texts; never repeat parts of the",
    ): "no-echo",
    ("the player waits, and the timeout of escs is not", "keep the service warm and close to escs, and avoid"): "fast",
    ("tokens are valid for minutes; with a wrong clock", "synchronize both clocks (NTP)"): "clock",
    ("no player can sign in after it expires", "renew the certificate, and verify that it is renewed"): "certificate",
}


def test_every_case_and_invariant_has_its_advice():
    assert sorted(name for names in ADVICE.values() for name in names.split()) == sorted(ALL)


@pytest.mark.parametrize(("name", "advice"), [(name, a) for a, names in ADVICE.items() for name in names.split()])
def test_a_failure_shows_its_impact_and_its_fix(name, advice):
    result = Result(ALL[name], FAIL, ALL[name].level, "a problem", "a request", "a response")
    first, *lines, last = output.render_text(URL, [result]).splitlines()[:-2]
    assert first == f"FAIL  {ALL[name].level:<6}  {name}: {ALL[name].description}: a problem"
    details = dict(line.split(None, 1) for line in lines)
    assert list(details) == ["request", "response", "impact", "fix"]
    impact, fix = advice
    assert (details["impact"].startswith(impact), details["fix"].startswith(fix)) == (True, True)
    assert last.startswith("must")


def lines(*results: Result) -> list[str]:
    return output.render_text(URL, list(results)).splitlines()


def passed(name: str = "profile-full") -> Result:
    return Result(ALL[name], PASS, ALL[name].level)


def failed(name: str = "no-store") -> Result:
    return Result(ALL[name], FAIL, ALL[name].level, "1 response", response="profile-full")


def test_a_cause_replaces_the_fix_and_for_a_valid_request_the_impact():
    cause = Cause("the endpoint reports: typ is JWT", "set typ", "typ_is_jwt")
    valid = Result(ALL["profile-full"], FAIL, "must", "rejected with 401", "a request", "401", cause)
    assert lines(valid)[:9] == [
        "FAIL  must    profile-full: a valid token: rejected with 401",
        "      request   a request",
        "      response  401",
        "      cause     the endpoint reports: typ is JWT",
        "      reason    typ_is_jwt",
        "      impact    no player can sign in until a valid request is accepted",
        "      fix       set typ",
        "      see       docs/errors.md#typ_is_jwt",
        "must    0 pass, 1 fail, 0 skipped",
    ]
    hostile = Result(ALL["alg-none"], FAIL, "must", "no response", "a request", cause=Cause("timeout", "be fast"))
    assert hostile.details() == {
        "request": "a request",
        "cause": "timeout",
        "impact": cases.ALG.impact,
        "fix": "be fast",
    }
    unknown = Result(ALL["profile-full"], FAIL, "must", "rejected with 410", cause=Cause("the endpoint reports: x", ""))
    assert unknown.details()["fix"] == cases.EXACT.fix


@pytest.mark.parametrize(
    ("results", "following"),
    [
        (
            [failed("alg-none"), failed()],
            "apply the fixes and run the same command again: the endpoint is not ready for escs",
        ),
        ([passed(), failed()], "apply the fixes, or accept the impact: the endpoint is ready for escs"),
        (
            [passed(), Result(ALL["aud-other"], SKIP, "must", "needs a key to sign with (--keys or --private-key)")],
            "run it with a signing key (--keys, or --private-key and --kid): it is needed for the skipped cases",
        ),
        ([passed()], "run it without --only: the other cases decide whether the endpoint is ready for escs"),
        (
            [passed(name) for name in ALL if name != "crit"],
            "run it without --only: the other cases decide whether the endpoint is ready for escs",
        ),
        (
            [passed(name) for name in ALL if name != "signature-der"]
            + [Result(ALL["signature-der"], SKIP, "should", "the token is not signed with ES256")],
            "enter the URL in the escs dashboard, and run this command in CI",
        ),
    ],
)
def test_the_output_ends_with_what_to_do_next(results, following):
    assert lines(*results)[-1] == f"next    {following}"
    assert json.loads(output.render_json(URL, results))["next"] == following


@pytest.mark.parametrize(
    ("url", "is_public"),
    [
        ("http://127.0.0.1:8000/profile", False),  # what `make run` prints
        ("http://localhost/", False),
        ("https://localhost/", False),
        ("https://[::1]/", False),
        ("https://10.0.0.1/", False),
        ("http://game.example/", False),
        ("https://game.example/", True),
        ("https://8.8.8.8/", True),
    ],
)
def test_only_a_public_https_url_is_one_for_the_dashboard(url, is_public):
    target = Url.parse(url, allow_http=True)
    following = output.next_step(target, [passed(name) for name in ALL])
    assert target.is_public == is_public
    assert following == (
        "enter the URL in the escs dashboard, and run this command in CI"
        if is_public
        else "deploy it behind TLS, and check its public https URL before you enter that in the escs dashboard"
    )


def test_text_shows_must_first_then_skips_and_counts():
    skipped = [Result(ALL[name], SKIP, "should", "a reason") for name in ("crit", "kid-missing")]
    assert [line for line in lines(failed(), failed("alg-none"), passed(), *skipped) if not line.startswith(" ")][
        :-1
    ] == [
        "FAIL  must    alg-none: alg none, no signature: 1 response",
        "FAIL  should  no-store: every response has Cache-Control: no-store: 1 response",
        "skip  2 a reason",
        "must    1 pass, 1 fail, 0 skipped",
        "should  0 pass, 1 fail, 2 skipped",
    ]


def test_json_has_one_object_for_each_result():
    first = Result(ALL["profile-full"], PASS, "must", duration_s=0.12345)
    skipped = Result(ALL["crit"], SKIP, "should", "a reason")
    found = json.loads(output.render_json(URL, [first, failed(), skipped]))
    assert found == {
        "url": "https://game.example:443/profile",
        "requests": 1,
        "must": {"pass": 1, "fail": 0, "skip": 0},
        "should": {"pass": 0, "fail": 1, "skip": 1},
        "next": "apply the fixes, or accept the impact: the endpoint is ready for escs",
        "cases": [
            {
                "id": "profile-full",
                "group": "profile",
                "level": "must",
                "description": "a valid token",
                "outcome": "pass",
                "problem": "",
                "duration_s": 0.123,
            },
            {
                "id": "no-store",
                "group": "responses",
                "level": "should",
                "description": "every response has Cache-Control: no-store",
                "outcome": "fail",
                "problem": "1 response",
                "duration_s": 0.0,
                "response": "profile-full",
                "impact": "a cache between escs and the endpoint may store the player's e-mail",
                "fix": "set Cache-Control: no-store on every response",
            },
            {
                "id": "crit",
                "group": "header",
                "level": "should",
                "description": "a critical extension",
                "outcome": "skip",
                "problem": "a reason",
                "duration_s": 0.0,
            },
        ],
    }


def test_junit_has_one_suite_for_each_level():
    first = Result(ALL["profile-full"], PASS, "must", duration_s=0.12345)
    skipped = Result(ALL["crit"], SKIP, "should", "a reason")
    data = output.render_junit(URL, [first, failed(), skipped])
    assert data.startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites name=")
    assert data.endswith(b"</testsuites>\n")
    root = ElementTree.fromstring(data)  # noqa: S314
    assert [root.tag, *(element.tag for element in root[1])] == ["testsuites", "testcase", "testcase"]
    assert [suite.tag for suite in root] == ["testsuite", "testsuite"]
    assert root.attrib == {"name": "verifier check https://game.example:443/profile"}
    found = [(dict(e.attrib), [(c.tag, dict(c.attrib), c.text) for case in e for c in case]) for e in root]
    text = (
        "response: profile-full\nimpact: a cache between escs and the endpoint may store the player's e-mail\n"
        "fix: set Cache-Control: no-store on every response"
    )
    assert found == [
        ({"name": "must", "tests": "1", "failures": "0", "skipped": "0"}, []),
        (
            {"name": "should", "tests": "2", "failures": "1", "skipped": "1"},
            [("failure", {"message": "1 response"}, text), ("skipped", {"message": "a reason"}, None)],
        ),
    ]
    assert [dict(case.attrib) for suite in root for case in suite] == [
        {"classname": "must.profile", "name": "profile-full", "time": "0.123"},
        {"classname": "should.responses", "name": "no-store", "time": "0.000"},
        {"classname": "should.header", "name": "crit", "time": "0.000"},
    ]

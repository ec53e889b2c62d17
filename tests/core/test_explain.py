"""Why a token is refused: every rule says what it expected and what it got, and nothing personal."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge
from verifier.core import rules, tokens
from verifier.core.encoding import b64url_decode
from verifier.core.explain import RuleResult, explain
from verifier.errors import InvalidToken, Reason

PARTS = ["header", "payload", "signature"]
RULES = ["typ", "crit", "kid", "alg", "signature", "claims", "iss", "aud", "sub", "exp", "iat", "nbf", "lifetime"]
NOW_IN_WORDS = "2027-01-15 08:00:00 UTC"


@pytest.fixture(scope="session")
def policy(keyring):
    return rules.Policy(ISSUER, APPLICATION_ID, keyring, NOW)


def refusal(text, policy):
    """What `verify` says of a token, or ""."""
    try:
        tokens.verify(text, policy)
    except InvalidToken as exc:
        return str(exc)
    return ""


def failures(results):
    return {result.rule: result.failure for result in results if result.failure}


def actual(results):
    """What each rule found; the three segments come first and are left out."""
    return {result.rule: result.actual for result in results[len(PARTS) :]}


# --- a good token


def test_a_good_token_passes_every_rule(issue, policy, pairs):
    text = issue(nbf=NOW)
    lengths = [len(part) for part in text.split(".")]
    results = explain(text, policy)
    assert failures(results) == {}
    assert [result.rule for result in results] == [*PARTS, *RULES, "email", "username"]
    assert [(result.source, result.expected, result.actual) for result in results[:3]] == [
        ("RFC 7515 §5.2", "base64url of a JSON object in UTF-8", f"{lengths[0]} characters"),
        ("RFC 7515 §5.2", "base64url", f"{lengths[1]} characters"),
        ("RFC 7515 §5.2", "base64url", "86 characters"),
    ]
    assert actual(results) == {
        "typ": '"at+jwt"',
        "crit": "absent",
        "kid": f'"{pairs["ES256"].kid}"',
        "alg": '"ES256"',
        "signature": "64 bytes",
        "claims": f"{len(b64url_decode(text.split('.')[1]))} bytes",
        "iss": '"https://game.example"',
        "aud": '"application-1"',
        "sub": "a string of 2 characters",
        "exp": "1800000300 (2027-01-15 08:05:00 UTC, expires in 5 min)",
        "iat": f"1800000000 ({NOW_IN_WORDS}, issued 0 s ago)",
        "nbf": f"1800000000 ({NOW_IN_WORDS}, valid since 0 s ago)",
        "lifetime": "300 s",
        "email": "a string of 15 characters",
        "username": "a string of 3 characters",
    }


def test_what_is_expected_names_the_values_of_the_policy(issue, policy):
    other = policy._replace(issuer="urn:{x}", application_id="{y}", leeway_s=7, max_lifetime_s=11)
    expected = {result.rule: result.expected for result in explain(issue(), other)[3:]}
    assert {name: expected[name] for name in ("iss", "aud", "exp", "iat", "nbf", "lifetime")} == {
        "iss": "urn:{x}",
        "aud": "{y}, alone or in a list of strings",
        "exp": "a number of seconds, later than now - 7 s",
        "iat": "a number of seconds, at most now + 7 s",
        "nbf": "absent, or a number of seconds, at most now + 7 s",
        "lifetime": "exp - iat above 0 s, at most 11 s",
    }


# --- a bad token


def test_every_broken_rule_is_reported_at_once(issue, policy):
    text = issue(
        header={"typ": "JWT", "crit": ["exp"], "zip": "DEF"},
        iss="https://other.example",
        aud=["another"],
        sub=42,
        iat=NOW * 1000,
        exp=forge.ABSENT,
        nbf=NOW + 31,
        email=["ann@example.com"],
    )
    results = explain(text, policy)
    assert failures(results) == {
        "typ": "typ is JWT, the default of JWT libraries; expected at+jwt",
        "crit": "crit is not supported in the token header",
        "iss": "unexpected issuer (iss)",
        "aud": "audience (aud) does not include the applicationId",
        "sub": "sub must be a string, not a number",
        "exp": "exp is missing",
        "iat": "iat looks like milliseconds; it must be in seconds",
        "nbf": "token is not valid yet (nbf)",
        "email": "email must be a string",
    }
    found = actual(results)
    assert {name: found[name] for name in ("crit", "aud", "sub", "iat", "exp", "lifetime", "email")} == {
        "crit": "crit, zip",
        "aud": '["another"]',
        "sub": "int",
        "iat": "1800000000000",
        "exp": "absent",
        "lifetime": "not checked",
        "email": "list",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("", "1 part, 0 characters", id="empty"),
        pytest.param("a.b", "2 parts, 3 characters", id="two-parts"),
        pytest.param("a.b.c.d.e", "5 parts, 9 characters", id="jwe"),
        pytest.param('{"payload": "canary"}', "1 part, 21 characters", id="json-serialization"),
    ],
)
def test_what_is_no_compact_jws_has_one_result(policy, text, found):
    assert explain(text, policy) == [
        RuleResult(
            "form",
            "RFC 7515 §7.1",
            "header.payload.signature",
            found,
            Reason.TOKEN_MALFORMED,
            "malformed token: expected header.payload.signature",
        )
    ]


@pytest.mark.parametrize(
    ("spoil", "part", "says", "why"),
    [
        pytest.param(
            lambda h, p, s: (h + "=", p, s),
            "header",
            "the token header is not valid unpadded base64url",
            "the header cannot be read",
            id="header-padded",
        ),
        pytest.param(
            lambda h, p, s: (h, p + "=", s),
            "payload",
            "the token payload is not valid unpadded base64url",
            "the payload cannot be read",
            id="payload-padded",
        ),
        pytest.param(
            lambda h, p, _: (h, p, "é"),
            "signature",
            "the token signature is not valid unpadded base64url",
            "there is no signature that can be read",
            id="signature-odd",
        ),
    ],
)
def test_a_part_that_cannot_be_read_is_reported_and_the_rest_still_checked(issue, policy, spoil, part, says, why):
    results = explain(".".join(spoil(*issue().split("."))), policy)
    failed = [result for result in results if result.failure]
    assert failed[0].failure == says
    assert failed[0].rule == part
    skipped = {result.rule: result.skipped for result in results if result.skipped}
    assert set(skipped.values()) == {why}


def test_a_wrong_signature_is_reported_with_its_length(issue, policy):
    text = issue()
    results = explain(text[: text.rindex(".")] + "." + "A" * 86, policy)
    assert failures(results) == {"signature": "invalid signature"}
    assert actual(results)["signature"] == "64 bytes"


@pytest.mark.parametrize(
    ("changes", "name", "shown"),
    [
        pytest.param({"exp": NOW + 0.5}, "exp", f"1800000000.5 ({NOW_IN_WORDS}, expires in 0 s)", id="fraction"),
        pytest.param({"iat": 0}, "iat", "0 (1970-01-01 00:00:00 UTC, issued 20833 d 8 h ago)", id="zero"),
        pytest.param(
            {"iat": 10**11},
            "iat",
            "100000000000 (5138-11-16 09:46:40 UTC, issued in 1136574 d 1 h 46 min 40 s)",
            id="last",
        ),
        pytest.param({"iat": 10**11 + 1}, "iat", "100000000001", id="milliseconds"),
        pytest.param({"iat": -1}, "iat", "-1", id="negative"),
        pytest.param({"exp": True}, "exp", "true", id="boolean"),
        pytest.param({"exp": str(NOW)}, "exp", '"1800000000"', id="string"),
        pytest.param({"exp": None}, "exp", "null", id="null"),
        pytest.param({"exp": float("inf")}, "lifetime", "not checked", id="not-json"),
        pytest.param({"exp": True}, "lifetime", "not checked", id="lifetime-of-a-boolean"),
        pytest.param({"exp": NOW + 0.25}, "lifetime", "0.25 s", id="lifetime-fraction"),
        pytest.param({"iss": "x" * 100}, "iss", '"' + "x" * 59, id="long-is-cut"),
        pytest.param({"email": None}, "email", "NoneType", id="email-null"),
        pytest.param({"username": ""}, "username", "a string of 0 characters", id="username-empty"),
    ],
)
def test_what_a_rule_got_is_in_words(issue, policy, changes, name, shown):
    assert actual(explain(issue(**changes), policy))[name] == shown


def test_a_number_beyond_every_limit_is_reported_too(pairs, claims, policy):
    header = {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    payload = json.dumps(claims).replace(str(NOW + 300), "1e999")
    results = explain(forge.sign(pairs["ES256"], json.dumps(header), payload), policy)
    assert failures(results) == {"exp": "exp must be finite"}
    assert (actual(results)["exp"], actual(results)["lifetime"]) == ("Infinity", "not checked")


def test_nothing_personal_and_no_part_of_the_text_is_shown(issue, policy):
    for change in ({}, {"sub": ["canary"]}, {"email": {"canary": 1}}, {"username": "canary" * 99}):
        text = issue(**({"sub": "canary", "email": "canary@example.com", "username": "canary"} | change))
        words = " ".join(f"{result.actual} {result.failure}" for result in explain(text, policy))
        assert "canary" not in words
        assert not any(part in words for part in text.split("."))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
claim_changes = st.dictionaries(
    st.sampled_from(["iss", "aud", "sub", "iat", "exp", "nbf", "email", "username"]), json_values, max_size=2
)
header_changes = st.dictionaries(st.sampled_from(["typ", "alg", "kid", "crit", "b64", "zip"]), json_values, max_size=1)


@given(header_changes, claim_changes)
@settings(deadline=None, max_examples=80)
def test_the_first_failure_is_what_the_verifier_says(pairs, policy, header, claims):
    good = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": NOW, "exp": NOW + 300}
    members = {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    text = forge.token(pairs["ES256"], members | header, good | claims)
    told = [result.failure for result in explain(text, policy) if result.failure]
    assert [*told, ""][0] == refusal(text, policy)


pieces = st.sampled_from(
    [".", "Bearer ", '"', " ", "\n", "e30", "W10", "eyJ", "=", "é", "\ud800", "AA", "_", "{}", "", "a"]
)


@given(
    st.text(st.characters(exclude_categories=()))
    | st.lists(pieces).map("".join)
    | st.lists(pieces, max_size=3).map(".".join)
)
@settings(deadline=None, max_examples=150)
def test_any_text_gets_a_diagnosis_that_agrees_with_the_verifier(policy, text):
    told = [result.failure for result in explain(text, policy) if result.failure]
    assert told[0] == refusal(text, policy)


@pytest.mark.parametrize("depth", [100, 900, 980, 990, 100_000])
@pytest.mark.parametrize("member", [b"iss", b"aud", b"sub"])
def test_a_deeply_nested_claim_gets_a_diagnosis(policy, member, depth):
    payload = b'{"' + member + b'":' + b"[" * depth + b"]" * depth + b"}"
    text = f"e30.{forge.b64(payload)}.AA"
    assert failures(explain(text, policy))["typ"] == "typ is missing; expected at+jwt"


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        pytest.param("Bearer ", "", "remove 'Bearer ' before", id="bearer"),
        pytest.param("Authorization: bearer ", "", "remove 'Authorization: bearer ' before", id="header"),
        pytest.param('"', '"', "remove '\"' before and '\"' after", id="quoted"),
        pytest.param('"Bearer ', '",', "remove '\"Bearer ' before and '\",' after", id="quoted-header"),
        pytest.param(" ", "", "remove ' ' before", id="space-before"),
        pytest.param("\ufeff", "", "remove '\\ufeff' before", id="byte-order-mark"),
        pytest.param("", '"', "remove '\"' after", id="quote-after"),
        pytest.param("", "\r\n", "remove '\\r\\n' after", id="newline-after"),
        pytest.param("", "\t", "remove '\\t' after", id="tab-after"),
        pytest.param("", " " * 9999, "remove '" + " " * 39 + " after", id="long"),
    ],
)
def test_what_surrounds_a_token_is_named_and_the_token_inside_is_checked(issue, policy, before, after, found):
    for token in (issue(), issue(header={"typ": "JWT"}), "a..b"):
        text = f"{before}{token}{after}"
        form, *rest = explain(text, policy)
        expected = f"3 parts, {len(text)} characters: {found} the token"
        assert (form.rule, form.actual, form.failure) == ("form", expected, refusal(text, policy))
        assert form.reason == Reason.TOKEN_MALFORMED
        assert rest == explain(token, policy)


def test_where_no_token_is_inside_what_surrounds_it_there_is_one_result(policy):
    assert [result.actual for result in explain("Bearer r", policy)] == [
        "1 part, 8 characters: remove 'Bearer ' before the token"
    ]
    assert [result.actual for result in explain('"', policy)] == ["1 part, 1 character"]


def test_one_is_no_plural(policy, issue):
    assert [result.actual for result in explain("a.YQ.YQ", policy)[:3]] == [
        "1 character",
        "2 characters",
        "2 characters",
    ]
    found = actual(explain(issue(sub="1"), policy))
    assert found["sub"] == "a string of 1 character"


def skipped(results):
    return {result.rule: result.skipped for result in results if result.skipped}


def test_a_rule_that_was_not_broken_is_not_blamed(issue, policy):
    results = explain(issue(header={"kid": "another"}), policy)
    assert failures(results) == {"kid": "unknown key ID (kid)"}
    assert skipped(results) == {"alg": "unknown key", "signature": "unknown key"}
    results = explain(issue(header={"kid": "another", "alg": "HS256"}), policy)
    assert failures(results) == {"kid": "unknown key ID (kid)", "alg": "alg must be ES256, EdDSA or RS256"}
    results = explain(issue(header={"alg": "RS256"}), policy)
    assert failures(results) == {"alg": "alg is not the algorithm of the key with this kid"}
    assert skipped(results) == {"signature": "alg is not accepted"}
    results = explain(issue(iat=forge.ABSENT), policy)
    assert failures(results) == {"iat": "iat is missing"}
    assert skipped(results) == {"lifetime": "iat cannot be used"}


def test_claims_that_are_not_an_object_are_named_after_the_signature(pairs, policy):
    header = json.dumps({"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"})
    results = explain(forge.sign(pairs["ES256"], header, "[]"), policy)
    assert failures(results) == {"claims": "the token payload is not a JSON object"}
    assert set(skipped(results)) == {rule.name for rule in rules.CLAIM_RULES}

"""The reason that an endpoint gives is recognized, and gets the fix that matches."""

import json
import re
from pathlib import Path

import pytest

from verifier.conformance.messages import Response
from verifier.conformance.reasons import NO_RULE, RULES, TIME_REASONS, description_of, find_rule
from verifier.errors import Reason

# Texts of other implementations and of JWT libraries.
FOREIGN = {
    "jwt expired": "token_expired",
    "Signature has expired": "token_expired",
    "The token has expired": "token_expired",
    "jwt not active": "token_not_yet_valid",
    "The token is not yet valid (nbf)": "token_not_yet_valid",
    "The token is not yet valid (iat)": "iat_in_future",
    "jwt malformed": "token_malformed",
    "Not enough segments": "token_malformed",
    "jwt audience invalid. expected: application-1": "aud_unexpected",
    "Audience doesn't match": "aud_unexpected",
    "jwt issuer invalid": "iss_unexpected",
    "Invalid issuer": "iss_unexpected",
    "invalid algorithm": "alg_unsupported",
    "The specified alg value is not allowed": "alg_unsupported",
    "invalid signature": "signature_invalid",
    "Signature verification failed": "signature_invalid",
    'Unable to find a signing key that matches: "abc"': "unknown_key",
    "no matching key in the JWKS": "unknown_key",
    'Token is missing the "exp" claim': "exp_missing",
    'Token is missing the "kid" header': "kid_missing",
    "missing typ": "typ_missing",
    "typ is JWT": "typ_is_jwt",
    "typ must be at+jwt": "typ_unexpected",
    "sub must be a string": "sub_missing",
    "wrong secret": "client_rejected",
    "invalid client": "client_rejected",
    "secretKey is required": "secret_key_missing",
    "Media type not supported": "media_type_unsupported",
}


@pytest.mark.parametrize(("description", "reason"), FOREIGN.items())
def test_texts_of_other_implementations_are_recognized(description, reason):
    assert find_rule(description).reason == reason


@pytest.mark.parametrize("description", ["", "no", "Unauthorized", "something went wrong", "403"])
def test_an_unknown_text_has_no_rule(description):
    assert find_rule(description) == NO_RULE


@pytest.mark.parametrize(
    ("description", "fix"),
    [
        ("typ is JWT", "set typ to at+jwt in the token header when signing; JWT libraries default to JWT"),
        ("unknown key ID (kid)", "publish the public key to the endpoint, and set kid to the name that it has there"),
        ("invalid issuer", "compare iss with the issuer of the endpoint, character by character"),
        ("wrong secret", "compare applicationId and secretKey with the escs dashboard"),
        ("IAT looks like milliseconds", "write exp, iat and nbf as numbers of seconds since 1970-01-01 UTC, not as"),
    ],
)
def test_the_fix_matches_the_reason(description, fix):
    assert find_rule(description).fix.startswith(fix)


def test_the_name_of_a_claim_is_part_of_the_reason():
    assert find_rule("IAT looks like milliseconds").reason == "iat_in_milliseconds"


def test_every_rule_has_a_fix_and_a_reason_that_is_documented():
    headings = (Path(__file__).parents[2] / "docs/errors.md").read_text().splitlines()
    for rule in RULES:
        names = [reason for reason in Reason if re.fullmatch(rule.reason.replace("{}", "[a-z0-9]+"), reason)]
        assert rule.fix
        assert names
        assert {f"### {name}" for name in names} <= set(headings)
    assert {rule.reason for rule in RULES} >= TIME_REASONS


@pytest.mark.parametrize(
    ("members", "headers", "description"),
    [
        ({"error": "x", "error_description": "a", "detail": "b"}, {}, "a"),
        ({"detail": "b", "message": "c"}, {}, "b"),  # FastAPI, RFC 9457
        ({"message": "c"}, {}, "c"),
        ({"error_description": "", "detail": [1], "message": "c"}, {}, "c"),
        ({}, {"www-authenticate": 'Bearer error="invalid_token", error_description="d e"'}, "d e"),
        ({"message": "c"}, {"www-authenticate": 'Bearer error_description="d"'}, "c"),
        ({}, {"www-authenticate": 'Bearer error_description=""'}, ""),
        ([], {}, ""),
    ],
)
def test_the_description_is_read_where_implementations_put_it(members, headers, description):
    assert description_of(Response(401, headers, json.dumps(members).encode())) == description


@pytest.mark.parametrize("reason", Reason)
def test_every_text_of_the_server_is_recognized(reason):
    text = reason.text.format(limit=300, methods="POST")
    assert find_rule(text).reason == reason

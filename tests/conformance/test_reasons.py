"""The reason that an endpoint gives is recognized, and gets the fix that matches."""

import json
import re
from pathlib import Path

import pytest

from verifier.conformance.messages import Response
from verifier.conformance.reasons import NO_RULE, RULES, TIME_REASONS, description_of, find_rule
from verifier.errors import Reason

FIXES = {  # of one reason each
    "headers_too_large": "remove large cookies and headers in the proxy",
    "{}_timeout": "let proxies buffer the request",
    "too_many_{}": "wait and repeat; add replicas or raise the limit if it persists",
    "keys_stale": "repair the disk that holds the keys; the log of the endpoint names it",
    "shutting_down": "wait until the endpoint has restarted",
    "internal_error": "see the log of the endpoint",
    "malformed_request": "compare http and https, and check the headers that proxies add",
    "not_found": "compare the path of the URL with the route, slash by slash",
    "method_not_allowed": "accept POST on this path, and no redirect before it",
    "headers_too_many": "remove header fields in the proxy",
    "framing_too_large": "let proxies buffer the request and send Content-Length",
    "body_too_large": "raise the limit to 16 KiB",
    "body_encoded": "let proxies pass the body without Content-Encoding",
    "media_type_unsupported": "let proxies pass Content-Type: application/json",
    "body_empty": "let proxies pass the body unchanged, and read it as one JSON object in UTF-8",
    "{}_not_base64url": (
        "encode each part as unpadded base64url, and pass the token alone in code, "
        "without Bearer, quotes or white space around it"
    ),
    "{}_not_utf8": "encode header and payload as one JSON object each, in UTF-8; use a JWT library",
    "token_malformed": "pass the token alone in code, without Bearer, quotes or white space around it",
    "typ_is_jwt": "set typ to at+jwt in the token header when signing; JWT libraries default to JWT",
    "{}_unsupported": "sign without crit, b64 and zip in the token header",
    "kid_missing": "set kid in the token header to the name of the key when signing",
    "key_revoked": "sign with the active key of the key set that the endpoint has",
    "alg_mismatch": "sign with the algorithm of the key that kid names",
    "unknown_key": "publish the public key to the endpoint, and set kid to the name that it has there",
    "alg_unsupported": "sign with ES256, EdDSA or RS256",
    "lifetime_not_positive": "set exp to iat plus 120 s; the maximum is 300 s (the default of .NET is one hour)",
    "{}_in_milliseconds": (
        "write exp, iat and nbf as numbers of seconds since 1970-01-01 UTC, not as strings or milliseconds"
    ),
    "{}_missing": "set iat and exp when signing",
    "token_expired": "synchronize the clocks of the signer and the endpoint (NTP), and issue a new token",
    "signature_is_der": "convert the signature to the 64 bytes r and s (RFC 7518 section 3.4)",
    "signature_invalid": (
        "compare the private key of the signer with the public key of this kid, and pass the token unchanged"
    ),
    "iss_unexpected": "compare iss with the issuer of the endpoint, character by character",
    "aud_invalid": "set aud to the applicationId when signing",
    "aud_unexpected": "set aud to the applicationId that escs sends; production and demo have different ones",
    "{}_too_long": "shorten the claim when signing",
    "{}_unpaired_surrogate": "truncate names between characters, not within one, when signing",
    "sub_is_number": "write the player id as a string in sub",
    "sub_missing": "set sub to the player id, a non-empty string",
    "{}_not_string": "write email and username as strings, or omit them",
    "client_rejected": "compare applicationId and secretKey with the escs dashboard",
}
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


@pytest.mark.parametrize(("reason", "fix"), FIXES.items())
def test_a_reason_has_its_fix(reason, fix):
    assert [rule.fix for rule in RULES if rule.reason == reason] == [fix]


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

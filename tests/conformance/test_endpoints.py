"""Broken endpoints, over sockets: a run fails each exactly where it is wrong, and passes a correct one."""

import ast
import re
import sys
import time
from pathlib import Path

import jwt
import pytest

from tests.conformance.endpoint import SHARED_KEY
from tests.conformance.support import (
    PRIVATE,
    cause_of,
    context,
    failures,
    valid_token,
)
from tests.conftest import APPLICATION_ID, ISSUER
from verifier import conformance
from verifier.conformance import runner
from verifier.conformance.messages import Url


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_the_real_server_passes_with_a_key(ours, pairs, alg):
    url = Url.parse(f"http://127.0.0.1:{ours.port}/profile")
    results = list(runner.run(url, context(pairs[alg]), runner.select(()), 5))
    assert [r for r in results if r.outcome == "fail"] == []
    skipped = {r.item.id for r in results if r.outcome == "skip"}
    assert skipped == (set() if alg == "ES256" else {"signature-der"})


def test_the_real_server_passes_with_one_valid_token(ours, pairs):
    url = Url.parse(f"http://127.0.0.1:{ours.port}/profile")
    token = valid_token(pairs["ES256"])
    results = list(runner.run(url, context(pairs["ES256"], key=None, token=token), runner.select(()), 5))
    assert [r for r in results if r.outcome == "fail"] == []
    skipped = {r.problem for r in results if r.outcome == "skip"}
    assert skipped == {"needs a key to sign with (--keys or --private-key)"}
    assert sum(r.outcome == "pass" for r in results) > 50


FORGED = {
    *("alg-none", "alg-none-case", "hs256-secret", "hs256-empty", "hs256-public", "claims-modified", "signature-empty"),
    *("signature-missing", "signature-zero", "signature-truncated", "other-key", "token-modified", "jwk-header"),
    *("jku-header", "kid-unknown", "kid-path"),
}
LATE = {"exp-recent", "exp-missing", "exp-string", "exp-milliseconds", "exp-far", "iat-future"}
UNREAD = {"type-text", "encoded", "body-large", "no-crash"}  # of those that read the body as it comes
SECRETS = {"secret-wrong", "secret-truncated", "secret-missing", "secret-true", "secret-operator"}
PROFILES = {"profile-full", "profile-again", "profile-unicode", "profile-digits", "profile-extra"}


@pytest.mark.parametrize(
    ("wrong", "must", "should"),
    [
        ("", set(), set()),
        ("no signature", FORGED, {"kid-missing", "signature-der"}),
        ("alg from header", {"alg-none", "alg-none-case", "hs256-public"}, set()),
        ("jwk from header", {"jwk-header"}, {"kid-missing"}),
        ("no times", {"exp-past", "nbf-future"}, LATE),
        ("no audience", {"aud-other", "aud-longer", "aud-missing"}, set()),
        ("no issuer", {"iss-other"}, set()),
        ("no header rules", set(), {"typ-jwt", "crit"}),
        ("no secret", SECRETS, UNREAD | {"error-json"}),
        ("secret prefix", {"secret-truncated"}, set()),
        ("no application", {"application-unknown", "application-missing"}, UNREAD),
        ("lax body", set(), UNREAD | {"secret-duplicate"}),
        ("no chunks", set(), {"chunked"}),
        ("nulls", {"profile-bare"}, {"profile-null"}),
        ("all claims", PROFILES | {"profile-bare"}, {"profile-null"}),
        ("no e-mail", PROFILES, set()),
        ("id as number", {"profile-digits"}, set()),
        (
            "200",
            {"rejection-2xx"},
            {"rejection-status", "type-text", "encoded", "body-large", "method-get", "method-put"},
        ),
        ("other status", set(), {"rejection-status"}),
        ("other errors", set(), {"error-json"}),
        ("other code", set(), {"error-json"}),
        ("html errors", set(), {"error-json", "json-type"}),
        ("405", set(), {"method-get", "method-put"}),
        ("cache", set(), {"no-store"}),
        ("echo", set(), {"no-echo"}),
        ("clock", set(), {"clock"}),
        ("slash", set(), {"trailing-slash", "no-redirect"}),
        ("redirect", {"profile-full"}, set()),  # and everything after it is skipped
        ("dies", {"profile-bare", "profile-unicode", "profile-digits"}, set()),  # the third in a row is the last
        ("dies once", set(), {"other-key"}),
    ],
)
def test_a_wrong_endpoint_fails_where_it_is_wrong(serve, pairs, wrong, must, should):
    assert failures(serve(wrong).url, context(pairs["ES256"])) == {"must": must, "should": should}


def test_a_slow_endpoint_fails_fast(serve, pairs):
    assert failures(serve("slow").url, context(pairs["ES256"]), "fast") == {"must": set(), "should": {"fast"}}


@pytest.mark.parametrize(
    ("wrong", "token", "skipped"),
    [
        ("opaque tokens", "opaque", "the token is not a JWS"),
        ("shared key", "shared", "the token is signed with a shared key"),
    ],
)
def test_tokens_of_another_kind_are_checked_as_far_as_they_go(serve, pairs, wrong, token, skipped):
    if token == "shared":
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": now, "exp": now + 60}
        token = jwt.encode(claims, SHARED_KEY, headers={"typ": "at+jwt"})
    url = Url.parse(serve(wrong).url)
    results = list(runner.run(url, context(pairs["ES256"], key=None, token=token), runner.select(()), 5))
    assert [r for r in results if r.outcome == "fail"] == []
    assert skipped in {r.problem for r in results if r.outcome == "skip"}


@pytest.mark.parametrize(
    ("token", "profile", "problem"),
    [
        ({}, {"_id": PRIVATE[0], "email": PRIVATE[1], "username": PRIVATE[2]}, ""),
        ({"email": None}, {"_id": PRIVATE[0], "email": "of@the.database", "username": PRIVATE[2]}, ""),
        ({}, {"_id": "another", "email": PRIVATE[1], "username": PRIVATE[2]}, "_id differs from the token"),
        ({}, {"_id": PRIVATE[0], "email": PRIVATE[1], "username": ""}, "username is not a string, or empty"),
        ({}, {"_id": PRIVATE[0], "email": None, "username": PRIVATE[2]}, "email is null"),
        ({}, {"_id": PRIVATE[0], "email": PRIVATE[1]}, "username is missing"),
        (
            {},
            {"id": PRIVATE[0]},
            "_id is missing, email is missing, username is missing, id is not a member of a profile",
        ),
        ({}, ["x"], "not a JSON object"),
    ],
)
def test_a_profile_is_compared_with_the_token(serve, pairs, token, profile, problem):
    url = Url.parse(serve(canned=profile).url)
    given = context(pairs["ES256"], key=None, token=valid_token(pairs["ES256"], **token))
    (result,) = runner.run(url, given, runner.select(["profile-full"]), 5)
    assert result.problem == problem


def test_an_expired_token_is_named(serve, pairs):
    old = valid_token(pairs["ES256"], iat=int(time.time()) - 400, exp=int(time.time()) - 100)
    found = cause_of(serve().url, pairs["ES256"], key=None, token=old)
    pattern = (
        r"time: the token expired 10[01] s ago \(the endpoint reports: token has expired \(exp\)\); use a new token"
    )
    assert re.fullmatch(pattern, found)


@pytest.mark.parametrize(
    ("token", "cause"),
    [
        (
            "opaque",
            "the endpoint reports: malformed token: expected header.payload.signature; "
            "pass the token alone in code, without Bearer, quotes or white space around it",
        ),
        (
            "W10.W10.W10",
            "the endpoint reports: the token header is not a JSON object; "
            "encode header and payload as one JSON object each, in UTF-8; use a JWT library",
        ),
    ],
    ids=["opaque", "jws-of-lists"],
)
def test_a_rejected_token_of_another_kind_is_named(serve, pairs, token, cause):
    assert cause_of(serve().url, pairs["ES256"], key=None, token=token) == cause


def test_clock_skew_is_named(serve, pairs):
    early = valid_token(pairs["ES256"], iat=int(time.time()) + 100, exp=int(time.time()) + 200)
    found = cause_of(serve("clock").url, pairs["ES256"], key=None, token=early)
    assert re.sub(r"\d+ s", "9 s", found) == (
        "time: the endpoint's clock is wrong (9 s ahead) (the endpoint reports: token was issued in the future (iat): "
        "clock skew?); synchronize both clocks (NTP)"
    )


def test_the_ids_are_unique_and_every_case_can_be_selected():
    ids = [about.id for about in runner.select(())]
    assert len(ids) == len(set(ids))
    assert all(runner.select([name])[-1].id == name for name in ids)


def test_the_package_imports_nothing_else_of_this_project():
    paths = list(Path(conformance.__file__).parent.glob("*.py"))
    assert len(paths) > 5
    for path in paths:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}
        names |= {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
        assert all(name.startswith("verifier.conformance.") for name in names if name.split(".")[0] == "verifier")
        assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"cryptography", "verifier"}

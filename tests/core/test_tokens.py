"""The token profile: what is accepted, what is refused, and with which words."""

import dataclasses
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge
from tests.support.forge import ABSENT
from verifier.core import rules, tokens
from verifier.core.keyring import Keyring, parse_public_key
from verifier.core.rules import Policy
from verifier.core.tokens import Player
from verifier.errors import InvalidToken, Reason
from verifier.signing import keystore


def refused(verify, token: str, says: str, **changes: Any) -> None:
    with pytest.raises(InvalidToken, match=f"^{re.escape(says)}$"):
        verify(token, **changes)


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_an_accepted_token_gives_its_player(issue, verify, alg):
    assert verify(issue(alg)) == Player("42", "ann@example.com", "ann")


@pytest.mark.parametrize(
    ("changes", "player"),
    [
        pytest.param({"email": ABSENT}, Player("42", None, "ann"), id="email-absent"),
        pytest.param({"email": None, "username": None}, Player("42"), id="null"),
        pytest.param({"email": "", "username": ""}, Player("42"), id="empty"),
        pytest.param({"sub": "Ω🎮"}, Player("Ω🎮", "ann@example.com", "ann"), id="sub-not-ascii"),
        pytest.param({"sub": "x" * 255}, Player("x" * 255, "ann@example.com", "ann"), id="sub-255"),
        pytest.param({"email": "x" * 320}, Player("42", "x" * 320, "ann"), id="email-320"),
        pytest.param({"username": "🎮" * 255}, Player("42", "ann@example.com", "🎮" * 255), id="username-255"),
        pytest.param({"aud": ["other", APPLICATION_ID]}, Player("42", "ann@example.com", "ann"), id="aud-list"),
        pytest.param({"admin": True, "_id": "1"}, Player("42", "ann@example.com", "ann"), id="other-claims"),
        pytest.param({"iat": NOW + 0.5, "exp": NOW + 300.5}, Player("42", "ann@example.com", "ann"), id="fractions"),
    ],
)
def test_what_the_profile_allows_is_accepted(issue, verify, changes, player):
    assert verify(issue(**changes)) == player


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"iat": NOW - 329, "exp": NOW - 29}, id="exp-29s-ago"),
        pytest.param({"iat": NOW + 30, "exp": NOW + 330}, id="iat-in-30s"),
        pytest.param({"nbf": NOW + 30}, id="nbf-in-30s"),
        pytest.param({"exp": NOW + 1}, id="life-1s"),
        pytest.param({"iat": NOW - 0.0001, "exp": NOW}, id="life-0.1ms"),
    ],
)
def test_the_last_instant_that_passes(issue, verify, changes):
    assert verify(issue(**changes)).id == "42"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"iss": "https://other.example"}, "unexpected issuer (iss)", id="iss-other"),
        pytest.param({"iss": ISSUER + "/"}, "unexpected issuer (iss)", id="iss-slash"),
        pytest.param({"iss": [ISSUER]}, "unexpected issuer (iss)", id="iss-list"),
        pytest.param({"iss": ABSENT}, "unexpected issuer (iss)", id="iss-absent"),
        pytest.param({"aud": "other"}, "audience (aud) does not include the applicationId", id="aud-other"),
        pytest.param({"aud": []}, "audience (aud) does not include the applicationId", id="aud-empty-list"),
        pytest.param(
            {"aud": APPLICATION_ID + "1"}, "audience (aud) does not include the applicationId", id="aud-longer"
        ),
        pytest.param(
            {"aud": [APPLICATION_ID, 1]}, "audience (aud) must be a string or a list of strings", id="aud-list-number"
        ),
        pytest.param(
            {"aud": [[APPLICATION_ID]]}, "audience (aud) must be a string or a list of strings", id="aud-nested"
        ),
        pytest.param({"aud": {"a": 1}}, "audience (aud) must be a string or a list of strings", id="aud-object"),
        pytest.param({"aud": ABSENT}, "audience (aud) must be a string or a list of strings", id="aud-absent"),
        pytest.param({"sub": 42}, "sub must be a string, not a number", id="sub-number"),
        pytest.param({"sub": ""}, "sub must be a non-empty string", id="sub-empty"),
        pytest.param({"sub": None}, "sub must be a non-empty string", id="sub-null"),
        pytest.param({"sub": ABSENT}, "sub must be a non-empty string", id="sub-absent"),
        pytest.param({"sub": ["42"]}, "sub must be a non-empty string", id="sub-list"),
        pytest.param({"sub": "x" * 256}, "sub is longer than 255 characters", id="sub-256"),
        pytest.param({"sub": "\ud83d"}, "sub has an unpaired surrogate (truncated emoji)", id="sub-half-emoji"),
        pytest.param({"email": 1}, "email must be a string", id="email-number"),
        pytest.param({"email": False}, "email must be a string", id="email-false"),
        pytest.param({"email": "x" * 321}, "email is longer than 320 characters", id="email-321"),
        pytest.param({"email": "\ude00"}, "email has an unpaired surrogate (truncated emoji)", id="email-half-emoji"),
        pytest.param({"username": ["ann"]}, "username must be a string", id="username-list"),
        pytest.param({"username": "x" * 256}, "username is longer than 255 characters", id="username-256"),
        pytest.param({"iat": NOW - 330, "exp": NOW - 30}, "token has expired (exp)", id="exp-30s-ago"),
        pytest.param(
            {"iat": NOW + 31, "exp": NOW + 331}, "token was issued in the future (iat): clock skew?", id="iat-in-31s"
        ),
        pytest.param({"nbf": NOW + 31}, "token is not valid yet (nbf)", id="nbf-in-31s"),
        pytest.param({"nbf": None}, "nbf must be a number of seconds", id="nbf-null"),
        pytest.param({"exp": NOW}, "exp is not after iat", id="life-0"),
        pytest.param({"exp": NOW - 1}, "exp is not after iat", id="life-negative"),
        pytest.param({"exp": NOW + 301}, "token lifetime exceeds the maximum of 300 s", id="life-301s"),
        pytest.param({"exp": NOW + 300.25}, "token lifetime exceeds the maximum of 300 s", id="life-300.25s"),
        pytest.param({"exp": ABSENT}, "exp is missing", id="exp-absent"),
        pytest.param({"iat": ABSENT}, "iat is missing", id="iat-absent"),
        pytest.param({"exp": str(NOW + 60)}, "exp must be a number of seconds", id="exp-as-string"),
        pytest.param({"exp": True}, "exp must be a number of seconds", id="exp-true"),
        pytest.param({"iat": None}, "iat must be a number of seconds", id="iat-null"),
        pytest.param(
            {"exp": (NOW + 60) * 1000}, "exp looks like milliseconds; it must be in seconds", id="exp-milliseconds"
        ),
        pytest.param({"iat": NOW * 1000}, "iat looks like milliseconds; it must be in seconds", id="iat-milliseconds"),
    ],
)
def test_a_bad_claim_is_refused(issue, verify, changes, says):
    assert verify(issue()).id == "42"
    refused(verify, issue(**changes), says)


@pytest.mark.parametrize(
    ("literal", "says"),
    [
        pytest.param("1e400", "exp must be finite", id="1e400"),
        pytest.param("-1e400", "exp must be finite", id="minus-1e400"),
        pytest.param("1" * 4500, "exp must be finite", id="4500-digits"),
        pytest.param("1" * 4300, "exp must be finite", id="4300-digits"),
        pytest.param("1" * 300, "exp looks like milliseconds; it must be in seconds", id="300-digits"),
        pytest.param("-" + "1" * 300, "token has expired (exp)", id="minus-300-digits"),
        pytest.param("100000000001", "exp looks like milliseconds; it must be in seconds", id="first-milliseconds"),
        pytest.param("100000000000", "token lifetime exceeds the maximum of 300 s", id="last-seconds"),
        pytest.param("NaN", "the token payload is not valid JSON", id="nan"),
        pytest.param("-Infinity", "the token payload is not valid JSON", id="infinity"),
        pytest.param("01", "the token payload is not valid JSON", id="leading-zero"),
        pytest.param(
            "[" * 8000 + "]" * 8000, "JSON nesting too deep or too many objects in the token payload", id="deep"
        ),
    ],
)
def test_a_number_no_clock_shows_is_refused(pairs, claims, verify, literal, says):
    pair = pairs["ES256"]
    header = json.dumps({"alg": "ES256", "kid": pair.kid, "typ": "at+jwt"})
    payload = json.dumps(claims | {"exp": "here"})
    assert verify(forge.sign(pair, header, payload.replace('"here"', str(NOW + 60)))).id == "42"
    refused(verify, forge.sign(pair, header, payload.replace('"here"', literal)), says)


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"])
def test_the_type_is_compared_as_a_media_type(issue, verify, typ):
    assert verify(issue(header={"typ": typ})).id == "42"


TYP = "unexpected typ; expected at+jwt"
ALG = "alg must be ES256, EdDSA or RS256"
KEY_ALG = "alg is not the algorithm of the key with this kid"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"typ": "JWT"}, "typ is JWT, the default of JWT libraries; expected at+jwt"),
        ({"typ": "jwt"}, TYP),
        ({"typ": "id+jwt"}, TYP),
        ({"typ": " at+jwt"}, TYP),
        ({"typ": "application/application/at+jwt"}, TYP),
        ({"typ": ["at+jwt"]}, TYP),
        ({"typ": ABSENT}, "typ is missing; expected at+jwt"),
        ({"crit": ["exp"], "exp": 1}, "crit is not supported in the token header"),
        ({"crit": []}, "crit is not supported in the token header"),
        ({"b64": True}, "b64 is not supported in the token header"),
        ({"b64": False, "crit": ["b64"]}, "crit is not supported in the token header"),
        ({"zip": "DEF"}, "zip is not supported in the token header"),
        ({"kid": ABSENT}, "kid is missing from the token header"),
        ({"kid": "x"}, "unknown key ID (kid)"),
        ({"kid": ""}, "unknown key ID (kid)"),
        ({"kid": 1}, "unknown key ID (kid)"),
        ({"kid": ["x"]}, "unknown key ID (kid)"),
        ({"kid": "../private/x"}, "unknown key ID (kid)"),
        ({"kid": "\ud800"}, "unknown key ID (kid)"),
        ({"alg": "none"}, ALG),
        ({"alg": "HS256"}, ALG),
        ({"alg": "ES384"}, ALG),
        ({"alg": "es256"}, ALG),
        ({"alg": ABSENT}, ALG),
        ({"alg": ["ES256"]}, ALG),
        ({"alg": "RS256"}, KEY_ALG),
        ({"alg": "EdDSA"}, KEY_ALG),
    ],
)
def test_a_bad_header_is_refused(issue, verify, header, says):
    assert verify(issue()).id == "42"
    refused(verify, issue(header=header), says)


def test_ed25519_is_another_name_of_eddsa(issue, verify):
    assert verify(issue("EdDSA", header={"alg": "Ed25519"})).id == "42"


def test_unknown_header_members_are_ignored(issue, verify, pairs):
    header = {"jwk": pairs["EdDSA"].public, "jku": "https://evil.example", "x5u": "x", "cty": "JWT"}
    assert verify(issue(header=header)).id == "42"


def parts_of(token: str) -> list[str]:
    return token.split(".")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda h, p, s: f"{h}.{p}", "malformed token: expected header.payload.signature", id="2-parts"),
        pytest.param(
            lambda h, p, s: f"{h}.{p}.{s}.{s}.{s}", "malformed token: expected header.payload.signature", id="JWE"
        ),
        pytest.param(lambda h, p, s: "x", "malformed token: expected header.payload.signature", id="1-part"),
        pytest.param(
            lambda h, p, s: json.dumps({"payload": p, "protected": h, "signature": s}),
            "malformed token: expected header.payload.signature",
            id="json-serialization",
        ),
        pytest.param(lambda h, p, s: f"{h}=.{p}.{s}", "the token header is not valid unpadded base64url", id="padded"),
        pytest.param(lambda h, p, s: f"{h}.{p}.{s}==", "the token signature is not valid unpadded base64url", id="sig"),
        pytest.param(
            lambda h, p, s: f"{h}.{p[:9]}\n{p[9:]}.{s}",
            "the token payload is not valid unpadded base64url",
            id="newline",
        ),
        pytest.param(lambda h, p, s: f"{h}.{p}.{s} ", "malformed token: expected header.payload.signature", id="space"),
        pytest.param(
            lambda h, p, s: f"{h}.{p}.+{s[1:]}", "the token signature is not valid unpadded base64url", id="+"
        ),
        pytest.param(
            lambda h, p, s: f"{h}.{p}.é{s[1:]}", "the token signature is not valid unpadded base64url", id="é"
        ),
        pytest.param(
            lambda h, p, s: f"{h}.{p}.\ud800{s}", "the token signature is not valid unpadded base64url", id="surrogate"
        ),
        pytest.param(
            lambda h, p, s: f"{h}.{p}.{s[:-1]}{chr(ord(s[-1]) + 1)}",
            "the token signature is not valid unpadded base64url",
            id="spare-bits",
        ),
        pytest.param(lambda h, p, s: f".{p}.{s}", "the token header is not valid JSON", id="header-empty"),
        pytest.param(lambda h, p, s: f"{h}..{s}", "invalid signature", id="payload-empty"),
        pytest.param(lambda h, p, s: f"{h}.{p}.", "invalid signature", id="signature-empty"),
        pytest.param(lambda h, p, s: f"{h}.{p}.{s[:-2]}", "invalid signature", id="signature-truncated"),
        pytest.param(lambda h, p, s: f"{h}.{p}.{forge.b64(bytes(64))}", "invalid signature", id="signature-zero"),
        pytest.param(lambda h, p, s: f"{h}.{p}.{'A' * 96}", "invalid signature", id="72-bytes-not-DER"),
    ],
)
def test_a_misshapen_token_is_refused(issue, verify, change, says):
    token = issue()
    # The last of 86 characters carries 2 bits: A, Q, g or w; its successor has spare bits set.
    assert verify(token).id == "42"
    refused(verify, change(*parts_of(token)), says)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"[]", "not_object"),
        (b'"x"', "not_object"),
        (b"{", "not_json"),
        (b'{"a":1} x', "not_json"),
        (b'\xef\xbb\xbf{"a":1}', "not_json"),
        (b'{"a":"\xff"}', "not_utf8"),
        ('{"a":1}'.encode("utf-16"), "not_utf8"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"sub":"1","s\\u0075b":"2"}', "duplicate_key"),
        (b'{"a":{"b":1,"b":2}}', "duplicate_key"),
    ],
)
def test_json_that_parsers_read_differently_is_refused(pairs, claims, verify, raw, cause):
    pair = pairs["ES256"]
    header = json.dumps({"alg": "ES256", "kid": pair.kid, "typ": "at+jwt"})
    assert verify(forge.sign(pair, header, json.dumps(claims))).id == "42"
    refused(verify, forge.sign(pair, header, raw), Reason(f"payload_{cause}").text)
    refused(verify, forge.sign(pair, raw, json.dumps(claims)), Reason(f"header_{cause}").text)


def test_a_changed_payload_is_refused(issue, verify):
    header, _, signature = parts_of(issue())
    other = parts_of(issue(sub="43"))[1]
    refused(verify, f"{header}.{other}.{signature}", "invalid signature")


def test_a_signature_of_another_key_is_refused(issue, verify):
    stranger = forge.Pair("ES256", keystore.generate("ES256"))
    header, payload, _ = parts_of(issue())
    signature = forge.b64(stranger.sign(f"{header}.{payload}".encode()))
    refused(verify, f"{header}.{payload}.{signature}", "invalid signature")


def test_a_der_signature_is_refused_by_name(issue, verify, pairs):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    header, payload, _ = parts_of(issue())
    der = b""
    while len(der) not in (70, 71, 72):
        der = pairs["ES256"].key.sign(f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    says = "signature is DER; ES256 needs the 64 bytes r and s (RFC 7518 3.4)"
    refused(verify, f"{header}.{payload}.{forge.b64(der)}", says)


@pytest.mark.parametrize(("length", "named"), [(69, False), (70, True), (71, True), (72, True), (73, False)])
def test_der_of_p256_has_70_to_72_bytes(issue, verify, length, named):
    header, payload, _ = parts_of(issue())
    says = "signature is DER; ES256 needs the 64 bytes r and s (RFC 7518 3.4)"
    signature = forge.b64(b"\x30" + bytes(length - 1))
    refused(verify, f"{header}.{payload}.{signature}", says if named else "invalid signature")


@pytest.mark.parametrize(
    ("changes", "accepted_at", "refused_at", "says"),
    [
        pytest.param({"nbf": NOW}, NOW - 30, NOW - 31, "the key with this kid is not valid yet", id="pending"),
        pytest.param({"exp": NOW + 9}, NOW + 8, NOW + 9, "the key with this kid has expired", id="expired"),
    ],
)
def test_a_key_verifies_within_its_dates_only(pairs, claims, changes, accepted_at, refused_at, says):
    pair = pairs["ES256"]
    members = pair.public | {"iat": NOW - 100, "nbf": NOW - 100} | changes
    keyring = Keyring([parse_public_key(f"{pair.kid}.json", json.dumps(members).encode())])

    def token(now: int) -> str:
        return forge.token(
            pair, {"alg": "ES256", "kid": pair.kid, "typ": "at+jwt"}, claims | {"iat": now, "exp": now + 300}
        )

    assert tokens.verify(token(accepted_at), Policy(ISSUER, APPLICATION_ID, keyring, accepted_at)).id == "42"
    with pytest.raises(InvalidToken, match=f"^{re.escape(says)}$"):
        tokens.verify(token(refused_at), Policy(ISSUER, APPLICATION_ID, keyring, refused_at))


def test_a_revoked_key_verifies_nothing(pairs, issue, verify):
    pair = pairs["ES256"]
    members = pair.public | {"iat": NOW, "nbf": NOW - 100, "revoked": {"revoked_at": NOW + 50, "reason": "lost"}}
    revoked = Keyring([parse_public_key(f"{pair.kid}.json", json.dumps(members).encode())])
    refused(verify, issue(), "the key with this kid is revoked", keyring=revoked)


def test_leeway_and_lifetime_are_the_policys(issue, verify):
    assert verify(issue(exp=NOW + 600), max_lifetime_s=600).id == "42"
    refused(verify, issue(exp=NOW + 601), "token lifetime exceeds the maximum of 600 s", max_lifetime_s=600)
    assert verify(issue(iat=NOW - 300, exp=NOW + 1), leeway_s=0, max_lifetime_s=301).id == "42"
    refused(verify, issue(iat=NOW - 300, exp=NOW), "token has expired (exp)", leeway_s=0)


@pytest.mark.parametrize(
    ("changes", "age_s"),
    [
        pytest.param({"iat": NOW - 330, "exp": NOW - 30}, 330, id="exp"),
        pytest.param({"iat": NOW + 120, "exp": NOW + 420}, -120, id="iat"),
        pytest.param({"iat": NOW - 3, "nbf": NOW + 31}, 3, id="nbf"),
        pytest.param({"iat": NOW - 999_999, "exp": NOW - 30}, 999_999, id="long-ago"),
        pytest.param({"iat": -1e300, "exp": NOW - 30}, 1_000_000, id="longer-ago"),
        pytest.param({"iat": NOW + 1_000_001}, -1_000_000, id="far-ahead"),
        pytest.param({"iat": NOW - 400.6, "exp": NOW - 30}, 401, id="rounded"),
        pytest.param({"iat": ABSENT, "exp": NOW - 30}, None, id="no-iat"),
        pytest.param({"iat": "1", "exp": NOW - 30}, None, id="iat-is-text"),
        pytest.param({"iss": "other"}, None, id="refused-for-something-else"),
    ],
)
def test_a_token_refused_for_its_time_has_an_age(issue, verify, changes, age_s):
    with pytest.raises(InvalidToken) as refusal:
        verify(issue(**({"exp": 9 * 10**10} | changes)))
    assert refusal.value.age_s == age_s


def test_no_age_is_taken_from_a_token_of_anybody(issue, verify):
    forged = issue(iat=NOW - 330, exp=NOW - 30)[:-8] + "AAAAAAAA"
    with pytest.raises(InvalidToken, match=r"^invalid signature$") as refusal:
        verify(forged)
    assert refusal.value.age_s is None


@given(st.text(max_size=300))
def test_any_text_is_a_player_or_a_refusal(keyring, text):
    with pytest.raises(InvalidToken):
        tokens.verify(text, Policy(ISSUER, APPLICATION_ID, keyring, NOW))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["iss", "aud", "sub", "iat", "exp", "nbf", "email", "username"]), json_values)
def test_any_claim_is_accepted_or_refused_in_words(pairs, keyring, name, value):
    pair = pairs["EdDSA"]
    claims = {"iss": ISSUER, "aud": APPLICATION_ID, "sub": "42", "iat": NOW, "exp": NOW + 300, name: value}
    token = forge.token(pair, {"alg": "EdDSA", "kid": pair.kid, "typ": "at+jwt"}, claims)
    try:
        player = tokens.verify(token, Policy(ISSUER, APPLICATION_ID, keyring, NOW))
    except InvalidToken as refusal:
        assert re.fullmatch(r"[ !#-\[\]-~]+", str(refusal))  # RFC 6749 §5.2
    else:
        assert 1 <= len(player.id) <= 255
        assert all(math.isfinite(claims[instant]) for instant in ("iat", "exp"))


def test_the_rules_in_their_order_with_their_sources_and_in_words():
    # What `verifier explain` prints, and the order in which a refusal names one rule of several.
    policy = Policy("the-issuer", "the-application", Keyring(), NOW)
    assert (policy.leeway_s, policy.max_lifetime_s) == (30, 300)
    assert [(rule.name, rule.source, rule.expects.format(**policy._asdict())) for rule in rules.RULES] == [
        ("typ", "RFC 9068 §4, RFC 8725 §3.11", "at+jwt"),
        ("crit", "RFC 7515 §4.1.11, RFC 7797 §6", "no crit, b64 or zip in the header"),
        ("kid", "RFC 7515 §4.1.4", "the key ID of a key that verifies now"),
        ("alg", "RFC 8725 §3.1", "ES256, EdDSA or RS256: the one of the key"),
        ("signature", "RFC 7515 §5.2", "made by the key over header and payload"),
        ("iss", "RFC 9068 §4", "the-issuer"),
        ("aud", "RFC 9068 §4, RFC 8725 §3.9", "the-application, alone or in a list of strings"),
        ("sub", "RFC 7519 §4.1.2", "a string of 1 to 255 characters"),
        ("exp", "RFC 7519 §4.1.4", "a number of seconds, later than now - 30 s"),
        ("iat", "RFC 7519 §4.1.6", "a number of seconds, at most now + 30 s"),
        ("nbf", "RFC 7519 §4.1.5", "absent, or a number of seconds, at most now + 30 s"),
        ("lifetime", "this profile", "exp - iat above 0 s, at most 300 s"),
        ("email", "this profile", "absent, or a string of at most 320 characters"),
        ("username", "this profile", "absent, or a string of at most 255 characters"),
    ]


def test_players_and_rules_cannot_be_changed():
    for value, name in ((Player("42"), "id"), (rules.RULES[0], "name")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, "other")
        assert not hasattr(value, "__dict__")


# --- what is kept and what is not examined


def test_only_headers_of_accepted_tokens_are_kept_and_a_bounded_number_of_them(issue, verify, monkeypatch):
    monkeypatch.setattr(tokens, "_headers", {})
    for n in range(50):
        with pytest.raises(InvalidToken):
            verify(issue(header={"x": str(n)}, exp=NOW - 100))
        with pytest.raises(InvalidToken):
            verify(f"{forge.b64(json.dumps({'n': n}).encode())}.e30.AA")
    assert tokens._headers == {}
    monkeypatch.setattr(tokens, "MAX_CACHED_HEADERS", 3)
    for n in range(7):
        assert verify(issue(header={"x": str(n)})).id == "42"
    assert len(tokens._headers) == 1  # emptied twice: at the fourth and at the seventh
    assert verify(issue(header={"x": "y" * tokens.MAX_CACHED_HEADER_CHARACTERS})).id == "42"
    assert len(tokens._headers) == 1


def test_the_claims_of_a_forged_token_are_not_parsed(issue, verify, monkeypatch):
    header, _, signature = issue().split(".")
    monkeypatch.setattr(
        tokens, "loads_object", lambda data: pytest.fail("parsed") if b"sub" in data else json.loads(data)
    )
    forged = ".".join((header, forge.b64(b'{"sub":"43"}'), signature))
    refused(verify, forged, "invalid signature")

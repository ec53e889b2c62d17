"""Every case differs from a valid request in exactly what its description names."""

import base64
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from freezegun import freeze_time

from tests.conformance.support import context
from tests.conftest import APPLICATION_ID, NOW, SECRET
from verifier.conformance import cases
from verifier.conformance.forge import Context, b64, decode
from verifier.conformance.messages import Request

CASES = {case.id: case for case in cases.CASES}
ABSENT = "absent"


def is_signed_by(key: Any, data: bytes, signature: bytes) -> bool:
    try:
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.public_key().verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return len(signature) == 64


def signature_of(context: Context, data: bytes, signature: bytes) -> str:
    """What a signature is."""
    public = context.key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    macs = {"public key": public, "secret": SECRET.encode(), "empty key": b""}
    for name, key in macs.items():
        if signature == hmac.digest(key, data, "sha256"):
            return f"HMAC with the {name}"
    if is_signed_by(context.key.key, data, signature):
        return "valid"
    if signature == bytes(len(signature)):
        return f"{len(signature)} zeros"
    return "DER" if signature[:1] == b"\x30" and len(signature) > 64 else f"{len(signature)} bytes"


def changes(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    names = sorted(found.keys() | expected.keys())
    return {n: found.get(n, ABSENT) for n in names if found.get(n, ABSENT) != expected.get(n, ABSENT)}


def difference(context: Context, request: Request) -> dict[str, Any]:
    """How a request differs from the one that escs sends with a valid token."""
    valid = context.request()
    found: dict[str, Any] = {}
    for name in ("method", "headers", "toggle_slash", "chunked"):
        if getattr(request, name) != getattr(valid, name):
            found[name] = getattr(request, name)
    try:
        members = json.loads(request.body)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        return found | {"body": request.body}
    code = members.pop("code", ABSENT)
    found |= changes(members, {"secretKey": SECRET, "applicationId": APPLICATION_ID})
    if code in (ABSENT, "not-a-token") or not isinstance(code, str):
        return found | {"code": code}
    assert code == request.token
    return found | token_difference(context, code)


def token_difference(context: Context, token: str) -> dict[str, Any]:
    header, claims, _ = decode(context.valid_token())
    parts = token.split(".")
    if len(parts) != 3 or "=" in token:
        return {"code": [len(part) for part in parts[2:]]}
    found = decode(token)
    data = token.rpartition(".")[0].encode()
    signature = signature_of(context, data, found[2])
    kept = parts[2] == b64(found[2])
    return {
        name: value
        for name, value in {
            "header": changes(found[0], header),
            "claims": {n: v for n, v in changes(found[1], claims).items() if n != "jti"},
            "signature": "" if signature == "valid" and kept else signature if kept else "not canonical",
        }.items()
        if value
    }


UNKNOWN = {"claims": {"sub": "another-player"}, "signature": "64 bytes"}
JSON = {"Content-Type": "application/json"}
EXPECTED: dict[str, dict[str, Any]] = {
    "profile-full": {},
    "profile-bare": {"claims": {"email": ABSENT, "username": ABSENT}},
    "profile-unicode": {"claims": {"username": "Zoë \u2694 雪 \U0001f600"}},
    "profile-digits": {"claims": {"sub": "007"}},
    "profile-extra": {"claims": {"id": "7", "name": "x", "role": "admin"}},
    "profile-null": {"claims": {"email": None, "username": ""}},
    "alg-none": {"header": {"alg": "none"}, "signature": "0 zeros"},
    "alg-none-case": {"header": {"alg": "nOnE"}, "signature": "0 zeros"},
    "hs256-secret": {"header": {"alg": "HS256"}, "signature": "HMAC with the secret"},
    "hs256-empty": {"header": {"alg": "HS256"}, "signature": "HMAC with the empty key"},
    "hs256-public": {"header": {"alg": "HS256"}, "signature": "HMAC with the public key"},
    "claims-modified": UNKNOWN,
    "signature-empty": {"signature": "0 zeros"},
    "signature-missing": {"code": []},
    "signature-zero": {"signature": "64 zeros"},
    "signature-truncated": {"signature": "32 bytes"},
    "other-key": UNKNOWN,
    "token-modified": {"signature": "64 bytes"},
    "token-garbage": {"code": "not-a-token"},
    "signature-der": {"signature": "DER"},
    "token-padded": {"code": [88]},
    "token-noncanonical": {"signature": "not canonical"},
    "token-parts": {"code": [86, 3]},
    "jwk-header": UNKNOWN | {"header": {"jwk": "a key"}},
    "jku-header": UNKNOWN | {"header": {"jku": "https://keys.invalid/jwks.json"}},
    "kid-unknown": UNKNOWN | {"header": {"kid": "unknown"}},
    "kid-path": {
        "header": {"alg": "HS256", "kid": "../../../../../../../dev/null"},
        "signature": "HMAC with the empty key",
    },
    "typ-case": {"header": {"typ": "application/AT+JWT"}},
    "kid-missing": {"header": {"kid": ABSENT}},
    "typ-jwt": {"header": {"typ": "JWT"}},
    "crit": {"header": {"crit": ["x-check"], "x-check": 1}},
    "aud-list": {"claims": {"aud": ["another", APPLICATION_ID]}},
    "clock-ahead": {"claims": {"iat": NOW + 10, "nbf": NOW + 10}},
    "exp-past": {"claims": {"exp": NOW - 3600, "iat": NOW - 3900}},
    "nbf-future": {"claims": {"nbf": NOW + 3600}},
    "aud-other": {"claims": {"aud": "another-application"}},
    "aud-longer": {"claims": {"aud": f"{APPLICATION_ID}-2"}},
    "aud-missing": {"claims": {"aud": ABSENT}},
    "iss-other": {"claims": {"iss": "https://another.example"}},
    "sub-missing": {"claims": {"sub": ABSENT}},
    "exp-recent": {"claims": {"exp": NOW - 90, "iat": NOW - 300}},
    "exp-missing": {"claims": {"exp": ABSENT}},
    "exp-string": {"claims": {"exp": str(NOW + 120)}},
    "exp-milliseconds": {"claims": {"exp": (NOW + 120) * 1000}},
    "exp-far": {"claims": {"exp": NOW + 31_536_000}},
    "iat-future": {"claims": {"exp": NOW + 3700, "iat": NOW + 3600}},
    "sub-number": {"claims": {"sub": 42}},
    "sub-duplicate": {"claims": {"sub": "another-player"}},
    "secret-wrong": {"secretKey": "not-the-secret"},
    "secret-truncated": {"secretKey": SECRET[:-1]},
    "application-unknown": {"applicationId": "another-application"},
    "secret-missing": {"secretKey": ABSENT},
    "secret-true": {"secretKey": True},
    "secret-operator": {"secretKey": {"$ne": ""}},
    "application-missing": {"applicationId": ABSENT},
    "secret-before-token": {"code": "not-a-token", "secretKey": "not-the-secret"},
    "body-extra": {"state": "check"},
    "type-charset": {"headers": {"Content-Type": "application/json; charset=utf-8"}},
    "body-empty": {"body": b""},
    "body-text": {"body": b"code=x&secretKey=y&applicationId=z"},
    "body-list": {"body": b"[1]"},
    "body-latin1": {"body": b'{"code": "\xff"}'},
    "body-deep": {"body": b'{"code": ' + b"[" * 5000 + b"]" * 5000 + b"}"},
    "code-missing": {"code": ABSENT},
    "secret-duplicate": {},  # the wrong one is overwritten here
    "chunked": {"chunked": True},
    "type-text": {"headers": {"Content-Type": "text/plain"}},
    "encoded": {"headers": JSON | {"Content-Encoding": "gzip"}},
    "body-large": {"padding": "x" * 131_072},
    "method-get": {"method": "GET", "headers": {}, "body": b""},
    "method-put": {"method": "PUT"},
    "trailing-slash": {"toggle_slash": True},
    "profile-again": {},
}


@pytest.mark.parametrize("name", CASES)
def test_a_case_differs_from_a_valid_request_in_what_it_names(pairs, name):
    with freeze_time(datetime.fromtimestamp(NOW, UTC)):
        given = context(pairs["ES256"])
        request = CASES[name].build(given)
        found = difference(given, request)
    if name == "jwk-header":
        assert sorted(found["header"]["jwk"]) == ["crv", "kty", "x", "y"]
        assert (found["header"]["jwk"]["kty"], found["header"]["jwk"]["crv"]) == ("EC", "P-256")
        found["header"]["jwk"] = "a key"
    assert found == EXPECTED[name]


def test_every_case_is_covered():
    assert list(EXPECTED) == list(CASES)


def test_a_duplicate_member_has_two_values(pairs):
    given = context(pairs["ES256"])
    members = json.loads(CASES["secret-duplicate"].build(given).body, object_pairs_hook=list)
    assert [value for name, value in members if name == "secretKey"] == ["another", SECRET]
    payload = CASES["sub-duplicate"].build(given).token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="), object_pairs_hook=list)
    assert [value for name, value in claims if name == "sub"] == [given.player, "another-player"]


def test_the_key_in_the_header_signed_the_token(pairs):
    token = CASES["jwk-header"].build(context(pairs["ES256"])).token
    jwk = decode(token)[0]["jwk"]
    claims = jwt.decode(token, jwt.PyJWK(jwk, "ES256").key, algorithms=["ES256"], options={"verify_aud": False})
    assert claims["sub"] == "another-player"


@pytest.mark.parametrize("alg", ["EdDSA", "RS256"])
def test_an_unknown_key_has_the_algorithm_of_the_token(pairs, alg):
    header, _, signature = decode(CASES["other-key"].build(context(pairs[alg])).token)
    assert (header["alg"], len(signature)) == (alg, {"EdDSA": 64, "RS256": 256}[alg])


def test_a_secret_of_one_character_is_replaced_when_truncated(pairs):
    request = CASES["secret-truncated"].build(context(pairs["ES256"], secret="s"))
    assert json.loads(request.body)["secretKey"] == "x"

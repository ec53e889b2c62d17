"""Keys and forged tokens."""

import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from freezegun import freeze_time

from tests.conformance.support import context, pem
from tests.conftest import APPLICATION_ID, ISSUER, NOW
from verifier.conformance.forge import Key, decode, flip_low_bit


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not an unencrypted private key in PEM"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "must be P-256, Ed25519 or RSA"),
    ],
)
def test_a_key_of_another_kind_is_rejected(data, problem):
    with pytest.raises(ValueError, match=problem):
        Key.load(data, "kid", ISSUER)


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_the_algorithm_is_the_key_s(pairs, alg):
    assert Key.load(pem(pairs[alg].key), "kid", ISSUER).alg == alg


def test_a_valid_token_has_every_claim_of_the_profile(pairs):
    with freeze_time(datetime.fromtimestamp(NOW, UTC)):
        given = context(pairs["ES256"])
        header, claims, _ = decode(given.valid_token())
        first, second = (decode(given.valid_token())[1].pop("jti") for _ in range(2))
    assert header == {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    assert isinstance(claims.pop("jti"), str)
    assert (first, second) != ("", "")
    assert claims == {
        "iss": ISSUER,
        "aud": APPLICATION_ID,
        "client_id": APPLICATION_ID,
        "sub": f"check-{NOW}",
        "email": f"check-{NOW}@example.com",
        "username": f"check-{NOW}-name",
        "iat": NOW,
        "exp": NOW + 120,
    }


def test_the_expected_profile_has_the_claims_that_are_strings(pairs):
    key = context(pairs["ES256"]).key
    claims = {"sub": "1", "email": "", "username": 5, "name": "x"}
    token = key.token(b'{"alg": "ES256"}', json.dumps(claims).encode())
    assert context(pairs["ES256"], key=None, token=token).request().profile == {"_id": "1"}
    assert context(pairs["ES256"], key=None, token="opaque").request().profile == {}


def test_each_character_is_replaced_by_its_neighbour():
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    found = "".join(flip_low_bit(alphabet, index)[index] for index in range(64))
    assert found == "".join(alphabet[n ^ 1] for n in range(64))
    assert flip_low_bit("AAAA", -1) == "AAAB"


@pytest.mark.parametrize(
    "token", ["", "a.b", "e30.e30", "e30.e30.e30.e30", "e30.W10.", "W10.e30.", "e30.\xe9.", "e30.e3.x"]
)
def test_what_is_no_jws_is_a_value_error(token):
    with pytest.raises(ValueError, match=r"."):
        decode(token)


def test_a_key_in_the_header_is_of_the_algorithm_in_the_header(pairs):
    header, _, signature = decode(context(pairs["RS256"]).signed_by_unknown_key(alg="ES256", jwk=None).token)
    assert (header["alg"], header["jwk"]["kty"], len(signature)) == ("ES256", "EC", 64)


def test_a_context_shows_no_secret(pairs):
    assert repr(context(pairs["ES256"], token="a-token")) == f"Context(application_id='{APPLICATION_ID}')"

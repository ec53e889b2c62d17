"""Keys and forged tokens."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conformance.support import pem
from tests.conftest import ISSUER
from verifier.conformance.forge import Key


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

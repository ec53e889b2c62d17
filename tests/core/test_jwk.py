"""A public key as JSON and as an object: what is a key, and what it is called."""

import dataclasses
import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import forge
from verifier.core import jwk
from verifier.core.encoding import b64url_decode
from verifier.errors import KeyFileError

RFC7638_3_1 = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3o"
    "knjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
    "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
RFC8037_A2 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
RFC7515_A2 = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS"
    "-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xs"
    "mtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}
RFC7515_A3 = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
JOE = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"


def numbers(n, e=65537):
    """An RSA key as a JWK, of these numbers."""
    octets = [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (n, e)]
    return {"kty": "RSA", "n": forge.b64(octets[0]), "e": forge.b64(octets[1]), "alg": "RS256"}


def refusal(members):
    with pytest.raises(KeyFileError) as caught:
        jwk.load(members)
    return str(caught.value)


# --- published vectors


@pytest.mark.parametrize(
    ("members", "kid"),
    [
        pytest.param(RFC7638_3_1, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", id="rfc7638-3.1"),
        pytest.param(RFC8037_A2, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", id="rfc8037-a3"),
    ],
)
def test_a_published_key_has_its_published_thumbprint(members, kid):
    assert jwk.thumbprint(members) == kid


@pytest.mark.parametrize(
    ("alg", "members", "signing_input", "signature"),
    [
        pytest.param(
            "RS256",
            RFC7515_A2,
            f"eyJhbGciOiJSUzI1NiJ9.{JOE}",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t"
            "1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12j"
            "zDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQ"
            "Ge77Rw",
            id="rfc7515-a2",
        ),
        pytest.param(
            "ES256",
            RFC7515_A3,
            f"eyJhbGciOiJFUzI1NiJ9.{JOE}",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            id="rfc7515-a3",
        ),
        pytest.param(
            "EdDSA",
            RFC8037_A2,
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            id="rfc8037-a4",
        ),
    ],
)
def test_a_published_signature_is_its_keys_and_no_other(alg, members, signing_input, signature):
    algorithm, key = jwk.load(members | {"alg": alg})
    octets = b64url_decode(signature)
    assert algorithm is jwk.ALGORITHMS[alg]
    assert algorithm.pyjwt.verify(signing_input.encode(), key, octets)
    assert not algorithm.pyjwt.verify(signing_input.encode() + b"x", key, octets)
    assert not algorithm.pyjwt.verify(signing_input.encode(), key, octets[:-1] + bytes([octets[-1] ^ 1]))


# --- there and back


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_a_key_survives_the_way_to_json_and_back(pairs, alg):
    algorithm, key = jwk.load(pairs[alg].public)
    assert (algorithm.name, jwk.dump(key)) == (alg, pairs[alg].public)


@pytest.mark.parametrize(
    ("alg", "members"),
    [
        pytest.param("ES256", RFC7515_A3, id="rfc7515-a3"),
        pytest.param("EdDSA", RFC8037_A2, id="rfc8037-a2"),
        pytest.param("RS256", RFC7515_A2, id="rfc7515-a2"),
    ],
)
def test_a_key_is_written_with_its_public_members_algorithm_use_and_kid(alg, members):
    _, key = jwk.load(members | {"alg": alg})
    assert jwk.dump(key) == members | {"alg": alg, "use": "sig", "kid": jwk.thumbprint(members)}


def test_a_coordinate_that_begins_with_zeros_keeps_its_32_octets():
    keys = (ec.derive_private_key(n, ec.SECP256R1()).public_key() for n in range(1, 10_000))
    key = next(key for key in keys if key.public_numbers().x < 1 << 248)
    members = jwk.dump(key)
    assert len(b64url_decode(members["x"])) == 32
    assert jwk.load(members)[1].public_numbers() == key.public_numbers()


def test_ed25519_is_another_name_for_eddsa(pairs):
    algorithm, _ = jwk.load(pairs["EdDSA"].public | {"alg": "Ed25519"})
    assert algorithm is jwk.ALGORITHMS["EdDSA"]


# --- thumbprints


@given(st.permutations(list(RFC7638_3_1)), st.dictionaries(st.text("abcdxy", max_size=3), st.text(max_size=3)))
@settings(deadline=None, max_examples=30)
def test_a_thumbprint_depends_on_the_required_members_alone(order, others):
    members = others | {name: RFC7638_3_1[name] for name in order} | {"kid": "another", "alg": "another"}
    assert jwk.thumbprint(members) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


# --- refusals


@pytest.mark.parametrize(
    ("members", "alg", "name"),
    [
        pytest.param(RFC7515_A3, "ES256", "kty", id="ec-kty"),
        pytest.param(RFC7515_A3, "ES256", "crv", id="ec-crv"),
        pytest.param(RFC7515_A3, "ES256", "x", id="ec-x"),
        pytest.param(RFC7515_A3, "ES256", "y", id="ec-y"),
        pytest.param(RFC8037_A2, "EdDSA", "kty", id="okp-kty"),
        pytest.param(RFC8037_A2, "EdDSA", "crv", id="okp-crv"),
        pytest.param(RFC8037_A2, "EdDSA", "x", id="okp-x"),
        pytest.param(RFC7515_A2, "RS256", "kty", id="rsa-kty"),
        pytest.param(RFC7515_A2, "RS256", "e", id="rsa-e"),
        pytest.param(RFC7515_A2, "RS256", "n", id="rsa-n"),
    ],
)
@pytest.mark.parametrize(
    "value", [forge.ABSENT, None, 1, ["a"], "ec"], ids=["absent", "null", "number", "list", "another"]
)
def test_a_key_without_a_required_member_is_refused(members, alg, name, value):
    assert jwk.load(members | {"alg": alg})[0].name == alg
    says = refusal(forge.changed(members | {"alg": alg}, {name: value}))
    if name in ("kty", "crv"):
        assert says.startswith(f"kty and crv do not fit alg {alg} (expected ")
    else:
        assert says == f"{name} is missing or not canonical base64url"


NO_ALG = "alg is missing or not supported (expected ES256, EdDSA or RS256)"
NO_POINT = "not a valid public key"
SECP256K1 = {
    "crv": "secp256k1",
    "x": "eb5mfvncu6xVoGKVzocLBwKb_NstzijZWfKBWxb4F5g",
    "y": "SDradyajxGVdpPv8DhEIqP0XtEimhVQZnEfQj_sQ1Lg",
}


@pytest.mark.parametrize(
    ("alg", "changes", "says"),
    [
        pytest.param("ES256", {"alg": forge.ABSENT}, NO_ALG, id="alg-absent"),
        pytest.param("ES256", {"alg": None}, NO_ALG, id="alg-null"),
        pytest.param("ES256", {"alg": ["ES256"]}, NO_ALG, id="alg-in-a-list"),
        pytest.param("ES256", {"alg": "es256"}, NO_ALG, id="alg-in-lower-case"),
        pytest.param("ES256", {"alg": "ES384"}, NO_ALG, id="alg-es384"),
        pytest.param("ES256", {"alg": "HS256"}, NO_ALG, id="alg-hs256"),
        pytest.param("ES256", {"alg": "none"}, NO_ALG, id="alg-none"),
        pytest.param("RS256", {"alg": "PS256"}, NO_ALG, id="alg-ps256"),
        pytest.param(
            "ES256", {"alg": "EdDSA"}, "kty and crv do not fit alg EdDSA (expected Ed25519)", id="alg-of-another-kind"
        ),
        pytest.param("ES256", {"alg": "RS256"}, "kty and crv do not fit alg RS256 (expected RSA)", id="alg-rs256"),
        pytest.param("RS256", {"alg": "ES256"}, "kty and crv do not fit alg ES256 (expected P-256)", id="alg-es256"),
        pytest.param("ES256", {"kty": "OKP"}, "kty and crv do not fit alg ES256 (expected P-256)", id="kty-okp"),
        pytest.param("ES256", {"crv": "P-384"}, "kty and crv do not fit alg ES256 (expected P-256)", id="crv-p384"),
        pytest.param("ES256", SECP256K1, "kty and crv do not fit alg ES256 (expected P-256)", id="crv-secp256k1"),
        pytest.param(
            "ES256", {"crv": forge.ABSENT}, "kty and crv do not fit alg ES256 (expected P-256)", id="crv-absent"
        ),
        pytest.param("EdDSA", {"crv": "Ed448"}, "kty and crv do not fit alg EdDSA (expected Ed25519)", id="crv-ed448"),
        pytest.param(
            "EdDSA", {"crv": "X25519"}, "kty and crv do not fit alg EdDSA (expected Ed25519)", id="crv-x25519"
        ),
        pytest.param("RS256", {"crv": "P-256"}, "kty and crv do not fit alg RS256 (expected RSA)", id="crv-with-rsa"),
        pytest.param("ES256", {"y": forge.ABSENT}, "y is missing or not canonical base64url", id="y-absent"),
        pytest.param("ES256", {"y": 1}, "y is missing or not canonical base64url", id="y-number"),
        pytest.param("ES256", {"y": None}, "y is missing or not canonical base64url", id="y-null"),
        pytest.param("EdDSA", {"x": ["a"]}, "x is missing or not canonical base64url", id="x-list"),
        pytest.param("RS256", {"e": "AQAB="}, "e is missing or not canonical base64url", id="e-padded"),
        pytest.param("RS256", {"n": "é"}, "n is missing or not canonical base64url", id="n-not-ascii"),
        pytest.param("ES256", {"x": forge.b64(b"1" * 31)}, "x has 31 octets (expected 32)", id="x-31-octets"),
        pytest.param("ES256", {"y": forge.b64(b"1" * 33)}, "y has 33 octets (expected 32)", id="y-33-octets"),
        pytest.param("EdDSA", {"x": forge.b64(b"1" * 31)}, "x has 31 octets (expected 32)", id="ed25519-31-octets"),
        pytest.param("EdDSA", {"x": forge.b64(b"1" * 57)}, "x has 57 octets (expected 32)", id="ed448-octets"),
        pytest.param("EdDSA", {"x": ""}, "x has 0 octets (expected 32)", id="x-empty"),
        pytest.param("ES256", {"y": forge.b64(b"1" * 32)}, NO_POINT, id="not-on-the-curve"),
        pytest.param("ES256", dict.fromkeys("xy", forge.b64(bytes(32))), NO_POINT, id="zero-point"),
        pytest.param("ES256", dict.fromkeys("xy", forge.b64(b"\xff" * 32)), NO_POINT, id="beyond-the-field"),
        pytest.param("RS256", {"n": ""}, NO_POINT, id="n-empty"),
        pytest.param("RS256", {"e": ""}, NO_POINT, id="e-empty"),
        pytest.param("RS256", {"e": "AQ"}, NO_POINT, id="e-1"),
        pytest.param("RS256", {"e": "Ag"}, NO_POINT, id="e-even"),
    ],
)
def test_a_bad_key_is_refused(pairs, alg, changes, says):
    assert jwk.load(pairs[alg].public)[0].name == alg
    assert refusal(forge.changed(pairs[alg].public, changes)) == says


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
@pytest.mark.parametrize("name", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_private_key_material_is_refused_in_a_public_key(pairs, alg, name):
    says = f"private key material in a public key (found member {name})"
    assert refusal(pairs[alg].public | {name: "canary"}) == says


def test_every_private_member_is_named_and_none_is_shown(pairs):
    says = "private key material in a public key (found member d, p, q)"
    assert refusal(pairs["RS256"].public | dict.fromkeys("qdp", "canary")) == says


@pytest.mark.parametrize("bits", [2048, 8192])
def test_an_rsa_key_of_2048_to_8192_bits_is_taken(bits):
    assert jwk.load(numbers((1 << (bits - 1)) + 1))[1].key_size == bits


@pytest.mark.parametrize("bits", [1024, 2047, 8193])
def test_an_rsa_key_of_another_size_is_refused(bits):
    says = f"RSA key of the wrong size (found {bits} bits, expected 2048 to 8192)"
    assert refusal(numbers((1 << (bits - 1)) + 1)) == says


@pytest.mark.parametrize("name", ["n", "e"])
def test_an_rsa_number_with_a_leading_zero_is_refused(pairs, name):
    # RFC 7518 §6.3.1.1 warns of libraries that write it: one key would have two thumbprints.
    public = pairs["RS256"].public
    assert jwk.load(public)[0].name == "RS256"
    padded = forge.b64(b"\0" + b64url_decode(public[name]))
    assert refusal(public | {name: padded}) == f"{name} begins with a zero octet"


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), id="p-384"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP256K1()), id="secp256k1"),
        pytest.param(ed448.Ed448PrivateKey.generate, id="ed448"),
        pytest.param(x25519.X25519PrivateKey.generate, id="x25519"),
    ],
)
def test_another_kind_of_key_object_is_refused(key):
    says = "kind of key is not supported (expected P-256, Ed25519 or RSA)"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        jwk.dump(key().public_key())


def test_a_private_key_object_is_not_a_public_key(pairs):
    for pair in pairs.values():
        with pytest.raises(KeyFileError, match=r"^kind of key is not supported"):
            jwk.dump(pair.key)


def test_a_short_rsa_key_object_is_refused():
    key = rsa.RSAPublicNumbers(65537, (1 << 2046) + 1).public_key()
    with pytest.raises(
        KeyFileError, match=r"(?m)^RSA key of the wrong size \(found 2047 bits, expected 2048 to 8192\)$"
    ):
        jwk.dump(key)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.sampled_from([RFC7515_A3, RFC8037_A2, RFC7515_A2]), st.data())
@settings(deadline=None, max_examples=50)
def test_any_member_of_any_kind_gives_a_key_or_a_reason(members, data):
    names = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg"])
    algs = {"alg": data.draw(st.sampled_from(list(jwk.ALGORITHM_NAMES)))}
    changes = data.draw(st.dictionaries(names, json_values, max_size=2))
    try:
        algorithm, key = jwk.load(members | algs | changes)
    except KeyFileError as exc:
        assert str(exc).isprintable()
    else:
        assert jwk.dump(key)["alg"] == algorithm.name
        assert json.loads(json.dumps(jwk.dump(key))) == jwk.dump(key)


P25519 = 2**255 - 19
Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7


@pytest.mark.parametrize(
    "y",
    [0, 1, P25519 - 1, Y8, P25519 - Y8, P25519, P25519 + 1],
    ids=["order-4", "identity", "order-2", "order-8", "order-8-other", "order-4-again", "identity-again"],
)
@pytest.mark.parametrize("sign", [0, 2**255], ids=["sign-0", "sign-1"])
def test_an_ed25519_key_for_which_anyone_can_sign_is_refused(y, sign):
    x = forge.b64((y + sign).to_bytes(32, "little"))
    with pytest.raises(
        KeyFileError, match=r"^(Ed25519 key of small order: anyone can sign for it|not a valid public key)$"
    ):
        jwk.load({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x})


@pytest.mark.parametrize(
    ("alg", "names"), [("ES256", "kty crv x y"), ("EdDSA", "kty crv x"), ("RS256", "kty e n")], ids=["EC", "OKP", "RSA"]
)
def test_a_key_is_written_in_one_order(pairs, alg, names):
    # Its file is reviewed as a diff.
    assert list(jwk.dump(pairs[alg].key.public_key())) == [*names.split(), "alg", "use", "kid"]


def test_an_algorithm_cannot_be_changed():
    for algorithm in jwk.ALGORITHMS.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            algorithm.octets = None
        assert not hasattr(algorithm, "__dict__")

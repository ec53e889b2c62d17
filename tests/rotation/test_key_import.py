"""Public keys of other systems: a verdict for each key, and for other documents the command that converts them."""

import base64
import json
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs7,
)

from verifier.core import jwk
from verifier.errors import KeyFileError
from verifier.rotation.key_import import read_document

SPKI = PublicFormat.SubjectPublicKeyInfo
# RFC 8037 A.2
ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
ED25519_KID = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def pem(pair):
    return pair.key.public_key().public_bytes(Encoding.PEM, SPKI)


def read(document):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_document(data, "file")


def problems(document):
    return [str(verdict) for verdict in read(document)]


def members(document):
    found = read(document)
    assert [str(v) for v in found] == [f"key {n} ({v.kid}): ok" for n, v in enumerate(found, start=1)]
    return [v.members for v in found]


def test_every_key_of_a_pem_file_is_read(pairs):
    text = b"a note\n" + b"\n".join(pem(pair) for pair in pairs.values())
    assert members(text) == [pair.public for pair in pairs.values()]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(pairs):
    public = pairs["ES256"].public
    assert members(b"\xef\xbb\xbf" + pem(pairs["ES256"]).replace(b"\n", b"\r\n")) == [public]
    assert members(b"\xef\xbb\xbf" + json.dumps(public).encode()) == [public]


def test_an_rsa_key_in_pkcs1_is_read(pairs):
    data = pairs["RS256"].key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    assert members(data) == [pairs["RS256"].public]


def test_a_jwk_is_one_key_and_a_jwks_is_several(pairs):
    publics = [pair.public for pair in pairs.values()]
    assert members(publics[0]) == publics[:1]
    assert members({"keys": publics, "note": "x"}) == publics


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_a_key_without_alg_gets_the_one_of_its_kind(pairs, alg):
    without = {name: value for name, value in pairs[alg].public.items() if name not in ("alg", "kid", "use")}
    assert members(without) == [pairs[alg].public]


def test_the_kid_of_others_becomes_the_thumbprint_and_only_dates_are_kept():
    (found,) = members(ED25519 | {"kid": "theirs", "nbf": 7, "exp": 9, "iat": 5, "x5t": "canary", "use": "sig"})
    assert found == jwk.dump(jwk.load(ED25519 | {"alg": "EdDSA"})[1]) | {"nbf": 7, "exp": 9}
    assert found["kid"] == ED25519_KID


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"use": "enc"}, "key 1 (x): is not for signatures (use is not sig): skipped"),
        ({"key_ops": ["encrypt"]}, "key 1 (x): is not for signatures (key_ops lacks verify): skipped"),
        ({"key_ops": "verify"}, "key 1 (x): is not for signatures (key_ops lacks verify): skipped"),
        ({"revoked": {"revoked_at": 1}}, "key 1 (x): is revoked"),
        ({"alg": "ES256"}, "key 1 (x): kty and crv do not fit alg ES256 (expected P-256)"),
        ({"alg": "PS256"}, "key 1 (x): alg is missing or not supported (expected ES256, EdDSA or RS256)"),
        ({"kty": ["OKP"]}, "key 1 (x): alg is missing or not supported (expected ES256, EdDSA or RS256)"),
        ({"kid": 7, "x": "A"}, "key 1: x is missing or not canonical base64url"),
        ({"nbf": "abc"}, f"key 1 ({ED25519_KID}): nbf is not a whole number of seconds since 1970"),
        ({"exp": True}, f"key 1 ({ED25519_KID}): exp is not a whole number of seconds since 1970"),
        ({"exp": 10**11 + 1}, f"key 1 ({ED25519_KID}): exp is not a whole number of seconds since 1970"),
        ({"nbf": 9, "exp": 9}, f"key 1 ({ED25519_KID}): exp is not after nbf"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_its_position_and_its_cause(changes, problem):
    assert members(ED25519 | {"kid": "x"})
    assert problems(ED25519 | {"kid": "x"} | changes) == [problem]
    other = problem.replace("key 1", "key 2", 1)
    first, second = read({"keys": [ED25519 | {"x": "0" * 43}, ED25519 | {"kid": "x"} | changes]})
    assert str(second) == other
    assert second.members is None
    assert (second.skipped, first.skipped) == ("skipped" in problem, False)


def test_a_key_for_signatures_names_verify_among_its_operations():
    assert members(ED25519 | {"key_ops": ["sign", "verify"], "use": "sig"})


def test_a_key_that_comes_twice_is_named(pairs):
    assert problems({"keys": [ED25519, ED25519 | {"kid": "other"}]}) == [
        f"key 1 ({ED25519_KID}): ok",
        f"key 2 ({ED25519_KID}): is the same key as key 1",
    ]
    assert [v.problem for v in read(pem(pairs["ES256"]) * 2)] == ["", "is the same key as key 1"]


def rsa_pss():
    command = "openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 | openssl pkey -pubout"
    return subprocess.run(command, shell=True, capture_output=True, check=True).stdout  # noqa: S602


def test_an_rsa_pss_key_is_not_used_for_rs256():
    assert problems(rsa_pss()) == ["key 1: an RSA-PSS key (PS256) cannot be used for RS256"]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (lambda: ec.generate_private_key(ec.SECP384R1()), "kind of key is not supported (expected P-256, Ed25519 or"),
        (ed448.Ed448PrivateKey.generate, "kind of key is not supported (expected P-256, Ed25519 or RSA)"),
        (lambda: rsa.generate_private_key(65537, 1024), "RSA key of the wrong size (found 1024 bits, expected 2048"),  # noqa: S505
    ],
)
def test_a_pem_key_of_another_kind_is_named_beside_a_good_one(pairs, key, problem):
    block = key().public_key().public_bytes(Encoding.PEM, SPKI)
    good, bad = read(pem(pairs["EdDSA"]) + block)
    assert (good.problem, bad.position, bad.members) == ("", 2, None)
    assert bad.problem.startswith(problem)


def test_a_damaged_pem_block_is_named():
    assert problems(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n") == [
        "key 1: not a valid public key in PEM (found PUBLIC KEY)"
    ]
    with pytest.raises(KeyFileError, match=r"(?m)^file: a PEM block is not complete \(BEGIN without END\)$"):
        read(b"-----BEGIN PUBLIC KEY-----\nAAAA\n")


def test_a_mebibyte_of_pem_lines_takes_no_time_that_grows_with_its_square():
    start = time.monotonic()
    with pytest.raises(KeyFileError, match="a PEM block is not complete"):
        read(b"-----BEGIN PUBLIC KEY-----" * 40_000)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "file: neither PEM nor JWK nor JWKS (is not valid JSON)"),
        (b"\xff", "file: neither PEM nor JWK nor JWKS (is not UTF-8)"),
        (b'{"a":1,"a":1}', "file: neither PEM nor JWK nor JWKS (has a duplicate key)"),
        (b"[]", "file: neither PEM nor JWK nor JWKS (is not a JSON object)"),
        (b'{"keys":[]}', "file: keys is not a list of keys"),
        (b'{"keys":{}}', "file: keys is not a list of keys"),
        (b'{"keys":[{},1]}', "file: keys is not a list of keys"),
    ],
)
def test_what_is_no_key_document_is_refused(data, says):
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        read(data)


# --- other documents, and the command that converts each


def certificate(key, encoding):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "game")])
    now = datetime(2027, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=9))
    return builder.sign(key, hashes.SHA256()).public_bytes(encoding)


def private(key, encoding=Encoding.PEM, form=PrivateFormat.PKCS8, encryption=None):
    return key.private_bytes(encoding, form, encryption or NoEncryption())


def text(pair):
    return pem(pair).decode()


def spki(pair):
    return pair.key.public_key().public_bytes(Encoding.DER, SPKI)


def openssh(pair):
    return pair.key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


PEM = Encoding.PEM
AZURE = {"key": {"kid": "https://v.vault.azure.net/keys/k/1", "kty": "EC-HSM", "crv": "P-256", "key_ops": ["verify"]}}
DOCUMENTS = {
    "azure": (lambda p: json.dumps(AZURE).encode(), "a response of Azure Key Vault", "az keyvault key download"),
    "azure-key": (lambda p: json.dumps(AZURE["key"]).encode(), "a response of Azure Key Vault", "az keyvault key"),
    "aws": (
        lambda p: json.dumps({"KeyId": "k", "PublicKey": base64.b64encode(spki(p)).decode()}, indent=1).encode(),
        "a response of AWS KMS (GetPublicKey)",
        "jq -r .PublicKey FILE | base64 -d | openssl pkey -pubin -inform DER -out public-key.pem",
    ),
    "gcp": (
        lambda p: json.dumps({"pem": text(p), "algorithm": "EC_SIGN_P256_SHA256", "pemCrc32c": "1"}).encode(),
        "a response of Google Cloud KMS",
        "jq -r .pem FILE > public-key.pem",
    ),
    "vault": (
        lambda p: json.dumps({"data": {"latest_version": 1, "keys": {"1": {"public_key": text(p)}}}}).encode(),
        "a response of HashiCorp Vault",
        "jq -r '.data.keys[.data.latest_version|tostring].public_key' FILE > public-key.pem",
    ),
    "escaped": (
        lambda p: text(p).replace("\n", "\\n").encode(),
        "PEM with \\n in place of line breaks",
        "printf '%b\\n' \"$(cat FILE)\" > public-key.pem",
    ),
    "openssh": (openssh, "an OpenSSH key", "ssh-keygen -e -m PKCS8 -f FILE > public-key.pem"),
    "ssh2": (
        lambda p: subprocess.run(["ssh-keygen", "-ef/dev/stdin"], input=openssh(p), capture_output=True).stdout,
        "an SSH2 key",
        "ssh-keygen -i -f FILE > public-key.pub && ssh-keygen -e -m PKCS8 -f public-key.pub > public-key.pem",
    ),
    "pkcs7": (
        lambda p: pkcs7.serialize_certificates([x509.load_pem_x509_certificate(certificate(p.key, PEM))], PEM),
        "PKCS#7",
        "openssl pkcs7 -in FILE -print_certs | openssl x509 -noout -pubkey > public-key.pem",
    ),
    "der": (spki, "DER, not PEM", "openssl pkey -pubin -inform DER -in FILE -out public-key.pem"),
    "certificate": (
        lambda p: certificate(p.key, Encoding.PEM),
        "a certificate",
        "openssl x509 -in FILE -noout -pubkey > public-key.pem",
    ),
    "der-certificate": (
        lambda p: certificate(p.key, Encoding.DER),
        "a certificate in DER",
        "openssl x509 -inform DER -in FILE -noout -pubkey > public-key.pem",
    ),
    "private": (lambda p: private(p.key), "a private key", "openssl pkey -in FILE -pubout -out public-key.pem"),
    "der-private": (
        lambda p: private(p.key, Encoding.DER),
        "a private key in DER",
        "openssl pkey -inform DER -in FILE -pubout -out public-key.pem",
    ),
}


@pytest.mark.parametrize("file", ["their-key", "key.pem", "public-key.pem"])
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_another_document_is_named_with_the_command_that_converts_it(pairs, kind, tmp_path, file):
    make, name, command = DOCUMENTS[kind]
    pair = pairs["ES256"]
    path = tmp_path / file
    if file == "public-key.pem":
        command = command.replace("public-key", "public-key-2")
    path.write_bytes(make(pair))
    with pytest.raises(KeyFileError) as caught:
        read_document(path.read_bytes(), str(path))
    assert str(caught.value).startswith(f"{path}: is {name} (expected a public key as PEM, JWK or JWKS)")
    assert caught.value.hint.startswith(f"convert it: {command.replace('FILE', str(path))}")
    if shutil.which(command.partition(" ")[0]):  # what the hint says has to work, and to keep the file
        before = path.read_bytes()
        subprocess.run(caught.value.hint.removeprefix("convert it: "), shell=True, cwd=tmp_path, check=True)  # noqa: S602
        [converted] = tmp_path.glob("public-key*.pem" if file != "public-key.pem" else "public-key-2.pem")
        assert members(converted.read_bytes()) == [pair.public]
        assert path.read_bytes() == before


def test_a_vault_key_of_ed25519_is_converted_to_a_jwk(pairs, tmp_path):
    key = pairs["EdDSA"].key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    keys = {"1": {"public_key": base64.b64encode(key).decode()}}
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"data": {"type": "ed25519", "latest_version": 1, "keys": keys}}))
    with pytest.raises(KeyFileError, match="is a response of HashiCorp Vault") as caught:
        read_document(path.read_bytes(), "key.json")
    if shutil.which("jq"):
        subprocess.run(caught.value.hint.removeprefix("convert it: "), shell=True, cwd=tmp_path, check=True)  # noqa: S602
        assert members((tmp_path / "public-key.json").read_bytes()) == [pairs["EdDSA"].public]


@pytest.mark.parametrize(
    "document",
    [
        {"PublicKey": "MF", "SigningAlgorithms": ["RSASSA_PSS_SHA_256", "RSASSA_PKCS1_V1_5_SHA_512"]},
        {"PublicKey": "MF", "EncryptionAlgorithms": ["RSAES_OAEP_SHA_256"]},
        {"PublicKey": "MF", "SigningAlgorithms": "ECDSA_SHA_256"},
        {"pem": "-----BEGIN", "algorithm": "RSA_SIGN_PSS_2048_SHA256"},
        {"pem": "-----BEGIN", "algorithm": "RSA_DECRYPT_OAEP_2048_SHA256"},
        {"pem": "-----BEGIN", "algorithm": "EC_SIGN_P384_SHA384"},
    ],
)
def test_a_key_that_its_service_uses_otherwise_is_not_converted(document):
    with pytest.raises(KeyFileError, match=r"^file: the key is not for ES256, EdDSA or RS256 \(found ") as caught:
        read(document)
    assert caught.value.hint == "make a key for one of these"


@pytest.mark.parametrize("algorithm", ["ECDSA_SHA_256", "RSASSA_PKCS1_V1_5_SHA_256"])
def test_a_key_that_its_service_uses_as_we_do_is_converted(algorithm):
    with pytest.raises(KeyFileError, match="is a response of AWS KMS"):
        read({"PublicKey": "MF", "SigningAlgorithms": ["RSASSA_PSS_SHA_256", algorithm]})


def test_a_file_with_conflict_markers_is_refused(pairs):
    ours, theirs = pem(pairs["ES256"]), pem(pairs["RS256"])
    with pytest.raises(KeyFileError, match=r"(?m)^file: has conflict markers$"):
        read(b"<<<<<<< HEAD\n" + ours + b"=======\n" + theirs + b">>>>>>> other\n")


@pytest.mark.parametrize("document", [{"kid-1": "-----BEGIN CERTIFICATE-----"}, {"jwks_uri": "https://a.example"}, {}])
def test_json_that_is_no_key_is_named(document):
    with pytest.raises(KeyFileError, match=r"(?m)^file: is JSON, but neither a JWK \(no kty\) nor a JWKS \(no keys\)$"):
        read(document)


def test_a_private_key_of_any_kind_is_refused_and_not_shown(pairs):
    key = pairs["ES256"].key
    number = base64.urlsafe_b64encode(key.private_numbers().private_value.to_bytes(32, "big")).decode()
    documents = [
        private(key, form=PrivateFormat.TraditionalOpenSSL),
        private(key, encryption=BestAvailableEncryption(b"canary")),
        private(key, form=PrivateFormat.OpenSSH),
        pem(pairs["EdDSA"]) + private(key),
        json.dumps(pairs["ES256"].public | {"d": number}).encode(),
        json.dumps({"keys": [ED25519, ED25519 | {"d": number}]}).encode(),
    ]
    for document in documents:
        with pytest.raises(KeyFileError, match=r"^file: is (a private key|an OpenSSH key) \(expected a") as caught:
            read(document)
        shown = str(caught.value) + caught.value.hint
        assert number not in shown
        assert "convert it: " in shown


def test_a_symmetric_key_is_not_a_private_key_but_one_that_cannot_be_used():
    assert problems({"keys": [ED25519, {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]})[1].startswith("key 2 (s): ")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDE= ann", "an OpenSSH key"),
        (b"ecdsa-sha2-nistp256 AAAA ann", "an OpenSSH key"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", "an OpenPGP key"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAA\n-----END CERTIFICATE REQUEST-----\n", "a certificate request"),
        (b"-----BEGIN EC PARAMETERS-----\nAA\n-----END EC PARAMETERS-----\n", "curve parameters without a key"),
        ('{"kty":"EC"}'.encode("utf-16"), "UTF-16"),
        ('{"kty":"EC"}'.encode("utf-16-le"), "UTF-16"),
        (b"0\x82\x01", "DER, not PEM"),
        (b"0\x82\x04\x58\x02\x01\x03\x30", "PKCS#12"),
        (b"\xfe\xed\xfe\xed\0\0\0\2", "a Java key store"),
    ],
)
def test_other_formats_are_named(data, name):
    with pytest.raises(KeyFileError, match=f"^file: is {name} \\(expected") as caught:
        read(data)
    assert caught.value.hint.startswith("convert it: ")


@pytest.mark.parametrize(
    ("name", "shown"), [("-", "FILE"), ("a key's.der", "'a key'\\''s.der'"), ("./k.der", "./k.der")]
)
def test_the_command_can_be_pasted_whatever_the_name_of_the_file_is(pairs, name, shown):
    with pytest.raises(KeyFileError) as caught:
        read_document(spki(pairs["ES256"]), name)
    assert f" -in {shown} -out" in caught.value.hint

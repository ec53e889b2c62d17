"""A private key is read from PEM, signs what its public key verifies, and is never shown."""

import errno
import re
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.conftest import NOW
from tests.support import forge
from verifier.core.keyring import Keyring
from verifier.errors import KeyFileError
from verifier.signing import private_key
from verifier.signing.private_key import generate, unusable_private_keys

ALGS = ["ES256", "EdDSA", "RS256"]


# --- reading the private key


@pytest.mark.parametrize("alg", ALGS)
def test_a_private_key_signs_what_its_public_key_verifies(load, public, alg):
    key = load(public(alg))
    assert (key.kid, key.alg, key.exp) == (public(alg).kid, alg, None)
    assert public(alg).verify(b"message", key.sign(b"message")) is True
    assert len(key.sign(b"message")) == {"ES256": 64, "EdDSA": 64, "RS256": 256}[alg]


def pem(key, form=PrivateFormat.PKCS8, encryption=None):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


@pytest.mark.parametrize(
    ("alg", "begins"),
    [
        pytest.param("ES256", b"-----BEGIN EC PRIVATE KEY-----", id="sec1"),
        pytest.param("RS256", b"-----BEGIN RSA PRIVATE KEY-----", id="pkcs1"),
    ],
)
def test_the_older_kinds_of_pem_are_read_too(store, load, public, pairs, alg, begins):
    data = pem(pairs[alg].key, PrivateFormat.TraditionalOpenSSL)
    assert data.startswith(begins)
    (store.private / f"{pairs[alg].kid}.pem").write_bytes(data)
    assert public(alg).verify(b"message", load(public(alg)).sign(b"message")) is True


ENCRYPTED = BestAvailableEncryption(b"canary-password")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"canary", id="no-pem"),
        pytest.param(lambda key: pem(key)[:-40], id="cut-off"),
        pytest.param(lambda key: pem(key, encryption=ENCRYPTED), id="encrypted-pkcs8"),
        pytest.param(lambda key: pem(key, PrivateFormat.TraditionalOpenSSL, ENCRYPTED), id="encrypted-sec1"),
        pytest.param(lambda key: pem(key, PrivateFormat.OpenSSH), id="openssh"),
        pytest.param(lambda key: key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), id="der"),
        pytest.param(
            lambda key: key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), id="public"
        ),
        pytest.param(lambda _: pem(ec.generate_private_key(ec.SECP384R1())), id="p-384"),
        pytest.param(lambda _: pem(ed448.Ed448PrivateKey.generate()), id="ed448"),
        pytest.param(lambda _: pem(x25519.X25519PrivateKey.generate()), id="x25519"),
        pytest.param(lambda _: pem(rsa.generate_private_key(65537, 1024)), id="rsa-1024"),  # noqa: S505
    ],
)
def test_another_kind_of_file_is_refused_and_not_shown(store, load, public, pairs, content):
    assert load(public("ES256")).kid == pairs["ES256"].kid
    path = store.private / f"{pairs['ES256'].kid}.pem"
    path.write_bytes(content(pairs["ES256"].key))
    says = f"{path}: not an unencrypted PKCS#8 private key of a supported kind"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$") as caught:
        load(public("ES256"))
    assert "canary" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("other", ["a new key", "RS256"])
def test_the_private_key_of_another_key_is_refused(store, load, public, pairs, other):
    key = pairs[other].key if other in pairs else generate("ES256")
    found = forge.Pair("", key).kid
    path = store.private / f"{pairs['ES256'].kid}.pem"
    path.write_bytes(pem(key))
    says = f"{path}: contains another private key (found {found}, expected {pairs['ES256'].kid})"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$"):
        load(public("ES256"))


def test_a_missing_private_key_is_named_with_the_fix(store, load, public, pairs):
    path = store.private / f"{pairs['ES256'].kid}.pem"
    path.unlink()
    says = f"{path}: cannot be read (No such file or directory)"
    with pytest.raises(KeyFileError, match=f"(?m)^{re.escape(says)}$") as caught:
        load(public("ES256"))
    assert caught.value.hint == "sign where the key was made, or copy its file here with mode 0600"


def test_a_private_key_does_not_show_itself(load, public):
    key = load(public("EdDSA"))
    assert repr(key) == f"PrivateKey(kid='{key.kid}', alg='EdDSA', exp=None)"


@pytest.mark.parametrize(
    ("nbf", "since"), [(NOW + 1, "signs from 2027-01-15 08:00:01 UTC"), (NOW, "is the current key")]
)
@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (Path.unlink, " is missing"),
        (lambda path: path.write_bytes(b""), ": not an unencrypted PKCS#8 private key of a supported kind"),
        (lambda path: path.write_bytes(pem(generate("EdDSA"))), ": contains another private key (found "),
        (lambda path: path.write_bytes(b"x" * 70_000), ": cannot be read (is larger than 65536 bytes)"),
    ],
    ids=["missing", "empty", "another", "huge"],
)
def test_a_private_key_that_cannot_sign_is_described_with_the_time_from_which_it_is_needed(
    store, keyring, pairs, nbf, since, make, cause
):
    key = replace(keyring.find(pairs["ES256"].kid), nbf=nbf)
    ring, path = Keyring([key]), store.private / f"{key.kid}.pem"
    assert list(unusable_private_keys(ring, store.private, NOW)) == []
    make(path)
    [(found, text)] = unusable_private_keys(ring, store.private, NOW)
    assert found is key
    assert text.startswith(f"{path}{cause}")
    then = " then" if nbf > NOW else ""
    assert f", and {key.kid} {since}: no token can be issued here{then}; " in text
    assert text.endswith("copy the file from where the key was made") or "copy its file here" in text


def test_a_private_key_of_another_account_is_named_with_the_fix(store, load, public, pairs, monkeypatch):
    def denied(path, limit):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(private_key, "read_file", denied)
    with pytest.raises(KeyFileError) as caught:
        load(public("ES256"))
    path = store.private / f"{pairs['ES256'].kid}.pem"
    assert str(caught.value) == f"{path}: cannot be read (Permission denied)"
    assert caught.value.hint == f"let the account that signs own both: chown ACCOUNT {path.parent} {path}"

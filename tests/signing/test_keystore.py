"""Private keys: made once, never overwritten, readable for their owner alone; folders that cannot be used."""

import errno
import json
import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tests.conftest import NOW
from verifier.core.keyring import KeyState
from verifier.errors import ConfigError, KeyFileError
from verifier.rotation.plan import activate_first_key
from verifier.signing import keystore
from verifier.signing.current_key import CurrentKey
from verifier.signing.keystore import Keystore
from verifier.storage import atomic

ALGS = ["ES256", "EdDSA", "RS256"]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def tree(folder):
    """Every file below a folder and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def create(store, alg, *, nbf=NOW):
    """Make a key pair and publish it, as `keys generate` does; its kid."""
    members, pem = store.generate_pair(alg)
    with store.transaction():
        store.apply([activate_first_key(members | {"nbf": nbf}, now=NOW)], "generate", now=NOW, pem=pem)
    return members["kid"]


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["umask-000", "umask-022", "umask-077"])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


# --- making keys


@pytest.mark.parametrize("alg", ALGS)
def test_a_generated_key_has_the_requested_algorithm(alg):
    kinds = {"ES256": ec.EllipticCurvePrivateKey, "EdDSA": ed25519.Ed25519PrivateKey, "RS256": rsa.RSAPrivateKey}
    key = keystore.generate(alg)
    assert isinstance(key, kinds[alg])
    assert getattr(key, "key_size", None) == {"ES256": 256, "RS256": 2048}.get(alg)
    assert alg != "ES256" or isinstance(key.curve, ec.SECP256R1)


@pytest.mark.parametrize("alg", ALGS)
def test_a_created_key_is_published_with_its_dates_and_signs_from_nbf_on(empty, alg):
    kid = create(empty, alg, nbf=NOW + 3600)
    ring = empty.public.load()
    assert list(ring.keys) == [kid]
    document = json.loads((empty.public.folder / f"{kid}.json").read_bytes())
    assert {name: document[name] for name in ("alg", "use", "kid", "iat", "nbf")} == {
        "alg": alg,
        "use": "sig",
        "kid": kid,
        "iat": NOW,
        "nbf": NOW + 3600,
    }
    assert (ring.state(ring.find(kid), NOW + 3599), ring.state(ring.find(kid), NOW + 3600)) == (
        KeyState.PENDING,
        KeyState.CURRENT,
    )
    signature = CurrentKey(empty.folder).signer(NOW + 3600).sign(b"message")
    assert ring.find(kid).verify(b"message", signature) is True


@pytest.mark.usefixtures("umask")
def test_the_private_key_is_readable_for_its_owner_alone(empty):
    kid = create(empty, "ES256")
    assert (mode(empty.private), mode(empty.private / f"{kid}.pem")) == (0o700, 0o600)
    assert mode(empty.public.folder / f"{kid}.json") == 0o644


def test_a_private_folder_that_is_open_to_others_is_closed(store):
    store.private.chmod(0o755)
    create(store, "ES256")
    assert mode(store.private) == 0o700


def test_the_private_key_is_plain_pkcs8_which_every_library_reads(empty):
    kid = create(empty, "ES256")
    pem = (empty.private / f"{kid}.pem").read_bytes()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert load_pem_private_key(pem, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) == pem


def test_nothing_of_the_private_key_is_in_the_public_file(empty):
    kid = create(empty, "ES256")
    document = json.loads((empty.public.folder / f"{kid}.json").read_bytes())
    assert set(document) == {"kty", "crv", "x", "y", "alg", "use", "kid", "iat", "nbf"}


def test_another_key_leaves_every_file_as_it_is(store, keys):
    before = tree(keys)
    kid = create(store, "ES256")
    after = tree(keys)
    assert {after.pop(name) is not None for name in ("history.jsonl", "private/.gitignore")} == {True}
    assert {name: after.pop(name) for name in (f"public/{kid}.json", f"private/{kid}.pem")}
    assert after == before


def test_a_private_key_is_never_overwritten(store, keys, pairs, monkeypatch):
    monkeypatch.setattr(keystore, "generate", lambda alg: pairs[alg].key)
    before = tree(keys)
    with pytest.raises(KeyFileError, match=r"(?m)\.pem: exists already; it is never overwritten$"):
        create(store, "ES256", nbf=NOW + 3600)
    after = tree(keys)
    assert {after.pop(name) is not None for name in ("private/.gitignore",)} == {True}
    assert after == before


@pytest.mark.parametrize("number", range(1, 5))
def test_nothing_is_left_of_a_key_when_one_of_its_files_cannot_be_written(empty, monkeypatch, number):
    with empty.transaction():
        pass
    stage, calls = atomic.stage, []

    def fail_once(path, *content):
        calls.append(path)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        stage(path, *content)

    monkeypatch.setattr(atomic, "stage", fail_once)
    with pytest.raises(ConfigError) as caught:
        create(empty, "ES256")
    assert str(caught.value) == f"{calls[-1]}: cannot be written (No space left on device); nothing was changed"
    assert caught.value.hint == "remove the cause, then run the command again"
    assert [calls[n].parent.name for n in range(number)] == ["private", "public", "keys", "private"][:number]
    assert list(empty.public.folder.iterdir()) == []
    assert sorted(path.name for path in empty.private.iterdir()) == [".gitignore"]
    assert not empty.history.exists()


# --- folders that cannot be used


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(ConfigError) as caught, Keystore(tmp_path / "keys").transaction():
        pytest.fail("began")
    says = os.strerror(errno.ENOTDIR)
    assert str(caught.value) == f"{tmp_path / 'keys' / 'public'}: {says}; nothing was changed"


@pytest.mark.parametrize("place", ["private", "none", "own"])
def test_the_lock_of_a_linked_history_is_held_as_well(store, keys, tmp_path, place):
    shared = keys if place == "own" else tmp_path / "shared"
    (shared / "private" if place == "private" else shared).mkdir(parents=True, exist_ok=True)
    target = shared / "log.jsonl"
    target.touch()
    store.history.symlink_to(target)
    lock = {"private": shared / "private" / ".lock", "none": shared / ".log.jsonl.lock"}.get(place)
    with store.transaction():
        assert lock is None or lock.read_text() == f"{os.getpid()}\n"
        assert (keys / "private" / ".lock").read_text() == f"{os.getpid()}\n"


def test_the_kids_of_the_private_keys_that_are_here_are_known(store, empty, pairs):
    assert store.signable() == {pair.kid for pair in pairs.values()}
    assert empty.signable() is None

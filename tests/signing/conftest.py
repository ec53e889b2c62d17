"""Key directories with private keys."""

import pytest

from verifier.signing.current_key import CurrentKey
from verifier.signing.keystore import Keystore
from verifier.signing.private_key import load_private_key


@pytest.fixture
def store(keys):
    return Keystore(keys)


@pytest.fixture
def empty(tmp_path):
    return Keystore(tmp_path / "new" / "keys")


@pytest.fixture
def current_key(keys):
    return CurrentKey(keys)


@pytest.fixture
def load(store):
    """Reads the private key of a public key."""
    return lambda public: load_private_key(store.private / f"{public.kid}.pem", public)


@pytest.fixture
def public(store):
    """Finds the public key of one of the three keys."""
    ring = store.public.load()
    return lambda alg: next(key for key in ring.keys.values() if key.algorithm.name == alg)

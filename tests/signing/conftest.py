"""Key directories with private keys."""

import pytest

from verifier.signing.keystore import Keystore


@pytest.fixture
def store(keys):
    return Keystore(keys)


@pytest.fixture
def empty(tmp_path):
    return Keystore(tmp_path / "new" / "keys")


@pytest.fixture
def public(store):
    """Finds the public key of one of the three keys."""
    ring = store.public.load()
    return lambda alg: next(key for key in ring.keys.values() if key.algorithm.name == alg)

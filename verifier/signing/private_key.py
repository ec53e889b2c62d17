"""A private key: generated, read from a PEM file, and used to sign."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from verifier.core import jwk
from verifier.core.keyring import Keyring, KeyState, PublicKey
from verifier.core.times import utc
from verifier.errors import KeyFileError
from verifier.storage.snapshot import read_file

MAX_PEM_BYTES = 65_536
_COPY = "copy the file from where the key was made"


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs."""

    kid: str
    alg: str
    key: Any = field(repr=False)  # object of the cryptography package
    exp: int | None = None  # first second at which the public key no longer verifies

    def sign(self, signing_input: bytes) -> bytes:
        """Return the JWS signature (RFC 7518 §3)."""
        return jwk.ALGORITHM_NAMES[self.alg].pyjwt.sign(signing_input, self.key)


def generate(alg: str) -> Any:
    """Generate a private key object for ES256, EdDSA or RS256."""
    kinds: dict[str, Callable[[], Any]] = {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
        # The shortest allowed: RS256 is for old stacks.
        "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=jwk.MIN_RSA_BITS),
    }
    return kinds[alg]()


def load_private_key(path: Path, public: PublicKey) -> PrivateKey:
    """Read the private key of a public key.

    Raises:
        KeyFileError: the file is missing, encrypted or contains another key.
    """
    try:
        key = load_pem_private_key(read_file(path, MAX_PEM_BYTES), password=None)
        found = jwk.dump(key.public_key())["kid"]
    except OSError as exc:
        hint = "sign where the key was made, or copy its file here with mode 0600"
        if isinstance(exc, PermissionError):
            hint = f"let the account that signs own both: chown ACCOUNT {shlex.join(map(str, (path.parent, path)))}"
        raise KeyFileError(f"{path}: cannot be read ({exc.strerror})", hint) from exc
    except (TypeError, ValueError, UnsupportedAlgorithm, KeyFileError) as exc:
        # The library raises TypeError for an encrypted file.
        raise KeyFileError(f"{path}: not an unencrypted PKCS#8 private key of a supported kind", _COPY) from exc
    if found != public.kid:
        raise KeyFileError(f"{path}: contains another private key (found {found}, expected {public.kid})", _COPY)
    return PrivateKey(public.kid, public.algorithm.name, key, public.exp)


def unusable_private_keys(
    keyring: Keyring, private: Path, now: float, loaded: set[str] | None = None
) -> Iterator[tuple[PublicKey, str]]:
    """Yield the current and pending keys that cannot sign here, and why, where `private` holds any private key.

    Keys in `loaded` are not loaded again; those that could be loaded are added to it.
    """
    loaded = set() if loaded is None else loaded
    here = {path.stem for path in private.glob("*.pem") if path.is_file()}
    for key in keyring.keys.values() if here else ():
        path = private / f"{key.kid}.pem"
        if keyring.state(key, now) not in (KeyState.CURRENT, KeyState.PENDING) or key.kid in loaded & here:
            continue
        try:
            if key.kid not in here:
                raise KeyFileError(f"{path} is missing", _COPY)
            load_private_key(path, key)
        except KeyFileError as exc:
            since, then = (f"signs from {utc(key.nbf)}", " then") if key.nbf > now else ("is the current key", "")
            yield key, f"{exc}, and {key.kid} {since}: no token can be issued here{then}; {exc.hint}"
        else:
            loaded.add(key.kid)

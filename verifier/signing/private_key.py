"""A private key: generated, read from a PEM file, and used to sign."""

from collections.abc import Callable
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
        raise KeyFileError(f"{path}: cannot be read ({exc.strerror})", hint) from exc
    except (TypeError, ValueError, UnsupportedAlgorithm, KeyFileError) as exc:
        # The library raises TypeError for an encrypted file.
        raise KeyFileError(f"{path}: not an unencrypted PKCS#8 private key of a supported kind") from exc
    if found != public.kid:
        raise KeyFileError(f"{path}: contains another private key (found {found}, expected {public.kid})")
    return PrivateKey(public.kid, public.algorithm.name, key, public.exp)


def missing_private_keys(keyring: Keyring, private: Path, now: float) -> list[PublicKey]:
    """Return the current and pending keys without a private key, where `private` holds any."""
    here = {path.stem for path in private.glob("*.pem") if path.is_file()}
    missing = [key for key in keyring.keys.values() if here and key.kid not in here]
    return [key for key in missing if keyring.state(key, now) in (KeyState.CURRENT, KeyState.PENDING)]


def describe_missing(key: PublicKey, private: Path, now: float) -> str:
    """Return what a missing private key means, and from when on."""
    since, then = (f"signs from {utc(key.nbf)}", " then") if key.nbf > now else ("is the current key", "")
    return (
        f"{private / key.kid}.pem is missing, and {key.kid} {since}: no token can be issued here{then}; "
        "copy the file from where the key was made"
    )

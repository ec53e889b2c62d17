"""Private keys: the only module that touches them. Nothing that serves imports it."""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.api_jws import PyJWS

from verifier import files, jwk
from verifier.errors import ConfigError, KeyFileError
from verifier.keyring import KeyDirectory, PublicKey

_REREAD_S = 1


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs."""

    kid: str
    alg: str
    key: Any = field(repr=False)  # object of the cryptography package
    exp: int | None = None  # first second at which the public half no longer verifies

    def sign(self, signing_input: bytes) -> bytes:
        """The JWS signature (RFC 7518 §3)."""
        signature: bytes = PyJWS().get_algorithm_by_name(self.alg).sign(signing_input, self.key)
        return signature


def generate(alg: str) -> Any:
    """A new private key object for ES256, EdDSA or RS256."""
    if alg == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=jwk.MIN_RSA_BITS)  # RS256 is for old stacks


class Keystore:
    """A key directory with its private half: `public/<kid>.json` and `private/<kid>.pem`."""

    def __init__(self, folder: Path) -> None:
        self.public = KeyDirectory(folder / "public")
        self.private = folder / "private"
        self._lock = threading.Lock()
        self._read_at: int | None = None
        self._signer: PrivateKey | None = None

    def signer(self, now: int) -> PrivateKey:
        """The current key, read again when it is not the one of before; thread-safe.

        Raises ConfigError when no key is current or its private half is not here.
        """
        with self._lock:
            if self._read_at is None or not self._read_at <= now < self._read_at + _REREAD_S:
                self.public.refresh()
                self._read_at = now
            current = self.public.keyring.current(now)
            if current is None:
                found = "; ".join(self.public.problems) or "none"
                raise ConfigError(f"{self.public.folder}: no current key (found {found})", "verifier keys list")
            if self._signer is None or (self._signer.kid, self._signer.exp) != (current.kid, current.exp):
                self._signer = self.load(current)
            return self._signer

    def load(self, public: PublicKey) -> PrivateKey:
        """The private half of a key; raises KeyFileError when it is missing, encrypted or another key's."""
        path = self.private / f"{public.kid}.pem"
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
            found = jwk.dump(key.public_key())["kid"]
        except OSError as exc:
            hint = "sign where the key was made, or copy its file here with mode 0600"
            raise KeyFileError(f"{path}: cannot be read ({exc.strerror})", hint) from exc
        except (TypeError, ValueError, UnsupportedAlgorithm, KeyFileError) as exc:
            # TypeError is the library's word for an encrypted file.
            raise KeyFileError(f"{path}: not an unencrypted PKCS#8 private key of a supported kind") from exc
        if found != public.kid:
            raise KeyFileError(f"{path}: another key's private half (found {found}, expected {public.kid})")
        return PrivateKey(public.kid, public.algorithm.name, key, public.exp)

    def create(self, alg: str, *, now: int, nbf: int) -> str:
        """Make a key pair that signs from `nbf` on, and publish it; the kid.

        The private half is written first and exclusively (0600 in a 0700 folder), so no public key
        is ever without one, and no file is overwritten.
        """
        key = generate(alg)
        public = jwk.dump(key.public_key()) | {"iat": now, "nbf": nbf}
        kid = str(public["kid"])
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.public.folder.mkdir(parents=True, exist_ok=True)
        self.private.mkdir(mode=0o700, exist_ok=True)
        self.private.chmod(0o700)
        files.write_new(self.private / f"{kid}.pem", pem, 0o600)
        files.write_atomic(self.public.folder / f"{kid}.json", json.dumps(public, indent=2).encode() + b"\n")
        return kid

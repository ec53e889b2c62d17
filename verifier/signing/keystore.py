"""Private keys: the only module that touches them. Nothing that serves imports it."""

import getpass
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from verifier._version import __version__
from verifier.core import jwk
from verifier.core.keyring import Keyring, PublicKey, parse_public_key
from verifier.errors import ConfigError, KeyFileError
from verifier.rotation import history
from verifier.rotation.history import Event
from verifier.rotation.plan import Plan
from verifier.storage import atomic
from verifier.storage.key_directory import KeyDirectory

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
    kinds: dict[str, Callable[[], Any]] = {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
        # The shortest allowed: RS256 is for old stacks.
        "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=jwk.MIN_RSA_BITS),
    }
    return kinds[alg]()


class Keystore:
    """A key directory with its private half: `public/<kid>.json` and `private/<kid>.pem`."""

    def __init__(self, folder: Path) -> None:
        self.public = KeyDirectory(folder / "public")
        self.private = folder / "private"
        self.history = folder / "history.jsonl"
        self.journal = self.private / ".commit.json"
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

    @contextmanager
    def transaction(self) -> Iterator[Keyring]:
        """The keyring as it is now, for the only command that may change it; finishes one that was interrupted."""
        self.public.folder.mkdir(parents=True, exist_ok=True)
        self.private.mkdir(mode=0o700, exist_ok=True)
        self.private.chmod(0o700)
        with atomic.locked(self.private / ".lock"):
            atomic.recover(self.journal)
            self.public.refresh()
            yield self.public.keyring

    def generate_pair(self, alg: str) -> tuple[dict[str, str], str]:
        """A new key pair, not yet anywhere: the public JWK, and the private half as PKCS#8 PEM."""
        key = generate(alg)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return jwk.dump(key.public_key()), pem.decode()

    def apply(self, plan: Plan, command: str, *, now: int, pem: str | None = None) -> list[Event]:
        """Carry out a plan whole or not at all, and write it into the history; what happened.

        `pem` is the private half of the plan's first key (0600 in a 0700 folder, never over another file).
        Call it within `change`. Removing a private half unlinks the file; it cannot promise what the disk keeps.
        """
        changes: dict[Path, tuple[str, int] | None] = {}
        removals: dict[Path, None] = {}
        events = []
        if pem is not None:
            path = self.private / f"{plan[0].kid}.pem"
            if path.exists():
                raise KeyFileError(f"{path}: is there already")
            changes[path] = (pem, 0o600)
        for step in plan:
            private = self.private / f"{step.kid}.pem"
            drops = step.drop_private and private.exists()
            if drops:
                removals[private] = None
            public = self.public.folder / f"{step.kid}.json"
            before = self.public.keyring.find(step.kid)
            if before is None or before.members != step.members:
                text = None if step.members is None else json.dumps(step.members, indent=2) + "\n"
                if text is not None:
                    parse_public_key(public.name, text.encode())  # nothing is written that no server would read
                changes[public] = None if text is None else (text, 0o644)
            elif not drops:
                continue
            members = step.members or {}
            events.append(
                Event(
                    at=now,
                    by=user_name(),
                    command=command,
                    kid=step.kid,
                    old=step.old,
                    new=step.new,
                    reason=step.reason or ("private half removed" if drops else ""),
                    nbf=members.get("nbf"),
                    exp=members.get("exp"),
                    previous_exp=step.previous_exp,
                    revoked_at=members.get("revoked", {}).get("revoked_at"),
                    iat=members.get("iat"),
                    alg=members.get("alg", ""),
                    version=__version__,
                )
            )
        if events:
            changes[self.history] = (history.append(self.read_history(), events).decode(), 0o644)
            atomic.commit(self.journal, changes | removals)
            self.public.refresh()
        return events

    def read_history(self) -> bytes:
        """The audit trail as it stands; empty before the first command."""
        return self.history.read_bytes() if self.history.exists() else b""

    def previous_exp(self, kid: str) -> int | None:
        """The end that a key had before its rotation was scheduled, as the history says."""
        key = self.public.keyring.find(kid)
        return history.previous_exp(history.read(self.read_history())[0], kid, key.exp if key else None)


def user_name() -> str:
    """Return the name of the account in UTF-8; bytes that are not UTF-8 are escaped."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        name = str(os.getuid())
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")[:256]

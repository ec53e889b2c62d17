"""The key of a key directory that signs now."""

import logging
from pathlib import Path

from verifier.core.times import utc
from verifier.errors import ConfigError
from verifier.rotation.plan import pending_keys
from verifier.signing.private_key import PrivateKey, load_private_key, unusable_private_keys
from verifier.storage.key_directory import KeyDirectory
from verifier.storage.refresher import Refresher

_log = logging.getLogger("verifier.signing")


class CurrentKey:
    """The current key of a key directory: `public/<kid>.json` and `private/<kid>.pem`.

    Thread-safe, and survives a fork.
    """

    def __init__(self, folder: Path) -> None:
        self.public, self.private = KeyDirectory(folder / "public"), folder / "private"
        self._refresh = Refresher(self._read)
        self._signer: PrivateKey | None = None
        self._warned: set[str] = set()
        self._loaded: set[str] = set()  # kids of private keys that could be used

    def signer(self, now: int) -> PrivateKey:
        """Return the current key; reads the directory at most once per second.

        Raises:
            ConfigError: no key is current, or its private key is not here.
        """
        self._refresh(now)
        current = self.public.keyring.current(now)
        if current is None:
            found = self._describe_found(now)
            hint = self.public.missing_hint or "verifier keys list"
            raise ConfigError(f"{self.public.folder}: no current key (found {found})", hint)
        signer = self._signer
        if signer is None or (signer.kid, signer.exp) != (current.kid, current.exp):
            signer = self._signer = load_private_key(self.private / f"{current.kid}.pem", current)
        return signer

    def _read(self, now: float) -> None:
        self.public.refresh()
        for key, text in unusable_private_keys(self.public.keyring, self.private, now, self._loaded):
            if key.kid not in self._warned:
                self._warned.add(key.kid)
                _log.warning("%s", text)

    def _describe_found(self, now: int) -> str:
        if self.public.problems:
            return "; ".join(self.public.problems)
        for key in pending_keys(self.public.keyring, now):
            return f"{key.kid}, pending until {utc(key.nbf)}: is this clock behind ({utc(now)})?"
        return "none"

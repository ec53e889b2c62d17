"""Verifying tokens in Python without the server: the counterpart of `TokenIssuer`."""

import time
from pathlib import Path

from verifier.core import tokens
from verifier.core.encoding import describe_flaw
from verifier.core.keyring import Keyring
from verifier.core.rules import Policy
from verifier.core.times import LEEWAY_S, MAX_LIFETIME_S
from verifier.errors import ConfigError
from verifier.storage.key_directory import KeyDirectory
from verifier.storage.refresher import Refresher


class TokenVerifier:
    """Verifies tokens of one issuer for one application, with the public keys of a key directory.

    Reads the directory again at most once per second, in the call that verifies, so rotations and revocations take
    effect without a restart; a key that was once read as revoked stays revoked until the process ends.

    Thread-safe. Survives a fork: the child reads the keys again. In asyncio, a call takes 0.1 ms, and a few
    milliseconds when files have changed; on a slow or remote file system call it with `asyncio.to_thread`.
    """

    def __init__(
        self,
        keys: KeyDirectory,
        *,
        issuer: str,
        application_id: str,
        leeway_s: int = LEEWAY_S,
        max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> None:
        """Use `from_directory` unless you have a KeyDirectory already. Durations are in seconds.

        Raises:
            ConfigError: the issuer or application id is empty or has characters that are not visible at a glance, or
                a duration is negative.
        """
        if not issuer or not application_id:
            raise ConfigError("issuer and application_id must not be empty")
        for name, value in (("issuer", issuer), ("application_id", application_id)):
            if flaw := describe_flaw(value):
                raise ConfigError(f"{name} {flaw}")
        if leeway_s < 0 or max_lifetime_s <= 0:
            raise ConfigError("leeway_s must not be negative, and max_lifetime_s must be positive")
        self._keys, self._refresh = keys, Refresher(lambda _: keys.refresh())
        self._policy = Policy(issuer, application_id, Keyring(), 0, leeway_s, max_lifetime_s)

    @classmethod
    def from_directory(
        cls,
        keys: str | Path,
        *,
        issuer: str,
        application_id: str,
        leeway_s: int = LEEWAY_S,
        max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> "TokenVerifier":
        """Create a verifier for a key directory (the folder that holds `public/`).

        Raises:
            ConfigError: as the constructor; KeyFileError if there is no key or a file is invalid. Later, an invalid
                file disables only its own key.
        """
        directory = KeyDirectory(Path(keys) / "public")
        directory.load()
        return cls(
            directory, issuer=issuer, application_id=application_id, leeway_s=leeway_s, max_lifetime_s=max_lifetime_s
        )

    def verify(self, token: str) -> tokens.Player:
        """Verify a token and return its player.

        A token can be verified again until it expires: nothing remembers the tokens that were used.

        Raises:
            InvalidToken: with the `reason` of the first rule that the token breaks.
        """
        now = time.time()
        self._refresh(now)
        return tokens.verify(token, self._policy._replace(keyring=self._keys.keyring, now=now))

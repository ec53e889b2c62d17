"""Minting tokens in a Python game backend."""

import time
from collections.abc import Callable
from pathlib import Path

from verifier.core import tokens
from verifier.core.rules import MAX_LIFETIME_S
from verifier.errors import IssueError
from verifier.signing.keystore import Keystore


class TokenIssuer:
    """Mints tokens for one application; thread-safe.

    `signer` is any object with `kid`, `alg` and `sign(bytes) -> bytes`, so the key can stay in an HSM
    or a cloud KMS. `max_lifetime_s` is what the verifier is set to accept.
    Raises IssueError for an empty issuer or application id.
    """

    def __init__(
        self,
        signer: tokens.Signer,
        *,
        issuer: str,
        application_id: str,
        lifetime_s: int = MAX_LIFETIME_S,
        max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> None:
        if not issuer or not application_id:
            raise IssueError("issuer and application_id must not be empty")
        self._signer_at: Callable[[int], tokens.Signer] = lambda _: signer
        self._issuer, self._application_id = issuer, application_id
        self._lifetime_s, self._max_lifetime_s = lifetime_s, max_lifetime_s

    @classmethod
    def from_directory(
        cls,
        keys: str | Path,
        *,
        issuer: str,
        application_id: str,
        lifetime_s: int = MAX_LIFETIME_S,
        max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> "TokenIssuer":
        """An issuer that signs with the current key of a key directory (`public/` and `private/`).

        It reads the directory again, at most once a second, so it switches at a rotation's moment by
        itself. Raises ConfigError when there is no current key or its private half is missing.
        """
        keystore = Keystore(Path(keys))
        first = keystore.signer(int(time.time()))
        self = cls(
            first,
            issuer=issuer,
            application_id=application_id,
            lifetime_s=lifetime_s,
            max_lifetime_s=max_lifetime_s,
        )
        self._signer_at = keystore.signer
        return self

    def issue(self, player_id: str, *, email: str | None = None, username: str | None = None) -> str:
        """A token for one sign-in, valid `lifetime_s` seconds from now.

        What the player did not agree to share is left out: it is not in the token at all.
        Raises IssueError for what the verifier would refuse, ConfigError when no key can sign.
        """
        now = int(time.time())
        return tokens.issue(
            tokens.Player(player_id, email, username),
            self._signer_at(now),
            issuer=self._issuer,
            application_id=self._application_id,
            now=now,
            lifetime_s=self._lifetime_s,
            max_lifetime_s=self._max_lifetime_s,
        )

"""Issue tokens in a Python game backend."""

import time
from collections.abc import Callable
from pathlib import Path

from verifier.core import tokens
from verifier.core.durations import DEFAULT_LIFETIME_S, MAX_LIFETIME_S
from verifier.core.encoding import describe_flaw
from verifier.errors import IssueError
from verifier.signing.keystore import Keystore


class TokenIssuer:
    """Issues tokens for one application; thread-safe, and usable in a child after a fork.

    `signer` is any object with `kid`, `alg` and `sign(bytes) -> bytes`, so the key can stay in an HSM or a cloud KMS.
    `lifetime_s` is 120 by default; `max_lifetime_s` is what the verifier is set to accept.
    A key directory is read at most once per second. With asyncio, run `issue` in a thread (`asyncio.to_thread`) if the
    directory is on a network file system or the signer is remote.

    Raises:
        IssueError: the issuer or application id is empty or has characters that are not visible at a glance, or
            `lifetime_s` is not from 1 to `max_lifetime_s`.
    """

    def __init__(
        self,
        signer: tokens.Signer,
        *,
        issuer: str,
        application_id: str,
        lifetime_s: int | None = None,
        max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> None:
        if not issuer or not application_id:
            raise IssueError("issuer and application_id must not be empty")
        for name, value in (("issuer", issuer), ("application_id", application_id)):
            if flaw := describe_flaw(value):
                raise IssueError(f"{name} {flaw}")
        if lifetime_s is None:
            lifetime_s = min(DEFAULT_LIFETIME_S, max_lifetime_s)
        if not 1 <= lifetime_s <= max_lifetime_s:
            raise IssueError(f"lifetime_s must be from 1 to max_lifetime_s (found {lifetime_s}, max {max_lifetime_s})")
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
        lifetime_s: int | None = None,
        max_lifetime_s: int = MAX_LIFETIME_S,
    ) -> "TokenIssuer":
        """Return an issuer that signs with the current key of a key directory (`public/` and `private/`).

        It reads the directory at most once per second, so it switches by itself when a rotation takes effect. It logs
        a warning (logger `verifier.signing`) when the private key of a pending key is missing.

        Raises:
            ConfigError: there is no current key, or its private key is missing.
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
        """Return a token for one sign-in, valid for `lifetime_s` seconds from now.

        Omit the e-mail or username without the player's consent: it is then not in the token at all.

        Raises:
            IssueError: the verifier would reject the token.
            ConfigError: no key can sign.
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

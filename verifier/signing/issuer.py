"""Issue tokens in a Python game backend."""

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from verifier.core.encoding import b64url_encode, describe_flaw
from verifier.core.jwk import ALGORITHM_NAMES
from verifier.core.keyring import Keyring
from verifier.core.rules import CLAIM_CHECKS, TYPE, Policy, UnverifiedToken
from verifier.core.times import DEFAULT_LIFETIME_S, MAX_LIFETIME_S
from verifier.core.tokens import Player
from verifier.errors import InvalidToken, IssueError
from verifier.signing.current_key import CurrentKey

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-5, SP 800-186 §3.2.1.3


class Signer(Protocol):
    """A signing key: a PEM file, or a key that never leaves an HSM or a cloud KMS."""

    @property
    def kid(self) -> str: ...

    @property
    def alg(self) -> str: ...

    def sign(self, signing_input: bytes) -> bytes:
        """Return the JWS signature (RFC 7518 §3): for ES256 the 64 bytes r and s, not DER."""
        ...


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
        signer: Signer,
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
            raise IssueError(
                f"the lifetime must be from 1 s to the maximum (found {lifetime_s} s, maximum {max_lifetime_s} s)"
            )
        self._signer_at: Callable[[int], Signer] = lambda _: signer
        self._lifetime_s = lifetime_s
        self._policy = Policy(issuer, application_id, Keyring(), now=0, leeway_s=0, max_lifetime_s=max_lifetime_s)

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
        current_key = CurrentKey(Path(keys))
        first = current_key.signer(int(time.time()))
        self = cls(
            first, issuer=issuer, application_id=application_id, lifetime_s=lifetime_s, max_lifetime_s=max_lifetime_s
        )
        self._signer_at = current_key.signer
        return self

    def issue(self, player_id: str, *, email: str | None = None, username: str | None = None) -> str:
        """Return a token for one sign-in, valid for `lifetime_s` seconds from now.

        Omit the e-mail or username if the player has not agreed to share it: it is then not in the token at all.

        Raises:
            IssueError: the verifier would reject the token.
            ConfigError: no key can sign.
        """
        now = int(time.time())
        player, policy = Player(player_id, email, username), self._policy._replace(now=now)
        return issue(player, self._signer_at(now), policy, self._lifetime_s)


def issue(player: Player, signer: Signer, policy: Policy, lifetime_s: int = MAX_LIFETIME_S) -> str:
    """Issue a token for a player, valid from `policy.now` for `lifetime_s` seconds. Absent claims are omitted.

    A signer may have `exp`, the first second at which its key no longer verifies.

    Raises:
        IssueError: `tokens.verify` would reject the token.
    """
    algorithm = ALGORITHM_NAMES.get(signer.alg)
    if algorithm is None:
        raise IssueError("the signer's alg is not ES256, EdDSA or RS256")
    header = {"alg": signer.alg, "kid": signer.kid, "typ": TYPE}
    claims = {
        "iss": policy.issuer,
        "aud": policy.application_id,
        "sub": player.id,
        "iat": policy.now,
        "exp": policy.now + lifetime_s,
        "jti": secrets.token_urlsafe(16),
        "client_id": policy.application_id,
    }
    shared = {"email": player.email, "username": player.username}
    claims |= {name: value for name, value in shared.items() if value not in (None, "")}
    token = UnverifiedToken(header, claims, b"", b"")
    try:
        for check in CLAIM_CHECKS:
            check(token, policy)
    except InvalidToken as exc:
        raise IssueError(str(exc)) from exc
    key_exp = getattr(signer, "exp", None)
    if key_exp is not None and policy.now + lifetime_s > key_exp:
        raise IssueError("the key expires before the token would")
    signing_input = f"{_encode_segment(header)}.{_encode_segment(claims)}"
    signature = signer.sign(signing_input.encode("ascii"))
    if algorithm.octets and len(signature) != 2 * algorithm.octets:
        raise IssueError(f"the signer returned {len(signature)} bytes (expected 64, for ES256 raw r and s and not DER)")
    return f"{signing_input}.{b64url_encode(signature)}"


def _encode_segment(members: dict[str, Any]) -> str:
    return b64url_encode(json.dumps(members, separators=(",", ":")).encode())


def raw_signature(der: bytes) -> bytes:
    """Convert an ES256 signature from DER, as key services return it, to the 64 bytes r and s (RFC 7518 §3.4).

    For a `Signer` whose key never leaves an HSM or a cloud KMS.

    Raises:
        ValueError: not exactly one P-256 signature in DER.
    """
    try:
        r, s = decode_dss_signature(der)
    except ValueError as exc:
        raise ValueError(f"not an ECDSA signature in DER (found {len(der)} bytes)") from exc
    if not (1 <= r < P256_ORDER and 1 <= s < P256_ORDER):
        raise ValueError("not a P-256 signature: r or s is not from 1 to the order of the curve less 1")
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")

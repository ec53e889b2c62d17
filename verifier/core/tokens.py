"""The token profile: a signed JWT (RFC 7519) that carries a player, its rules once for issuing and verifying.

The type and the checks follow RFC 9068 §4 and RFC 8725. It is not a full RFC 9068 token: `jti` and
`client_id` are written but not required, and there is no scope.
"""

import functools
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from verifier.core import jwk
from verifier.core.encoding import DecodeError, b64url_decode, b64url_encode, loads_object
from verifier.core.keyring import Keyring
from verifier.core.rules import CHECKS, CLAIM_RULES, MAX_LIFETIME_S, TYPE, Policy, UnverifiedToken
from verifier.errors import InvalidToken, IssueError, Reason

_NO_KEYS = Keyring()


@dataclass(frozen=True, slots=True)
class Player:
    """Who signed in, as the game backend vouches for it."""

    id: str
    email: str | None = None
    username: str | None = None
    kid: str = field(default="", compare=False)  # of the key that vouches


class Signer(Protocol):
    """A key that signs: a PEM file, or anything that keeps its key to itself (HSM, cloud KMS)."""

    @property
    def kid(self) -> str: ...

    @property
    def alg(self) -> str: ...

    def sign(self, signing_input: bytes) -> bytes:
        """The JWS signature (RFC 7518 §3): for ES256 the 64 bytes r and s, not DER."""
        ...


def parse(text: str, keyring: Keyring = _NO_KEYS) -> UnverifiedToken:
    """Take a compact JWS (RFC 7515 §7.1) apart, strictly; raises InvalidToken."""
    encoded_header, payload, signature = split_compact(text)
    header = _header(encoded_header)
    return UnverifiedToken(
        header,
        decode_json_segment(payload, "payload"),
        text[: -len(signature) - 1].encode("ascii"),
        decode_segment(signature, "signature"),
        keyring.find(header.get("kid")),
    )


def split_compact(text: str) -> tuple[str, str, str]:
    """Header, payload and signature, still encoded; raises InvalidToken."""
    signing_input, _, signature = text.rpartition(".")
    header, dot, payload = signing_input.partition(".")
    if not dot or "." in payload:
        raise InvalidToken(Reason.TOKEN_MALFORMED)
    return header, payload, signature


def decode_segment(part: str, name: str) -> bytes:
    """What a part encodes; raises InvalidToken."""
    try:
        return b64url_decode(part)
    except DecodeError as exc:
        raise InvalidToken(Reason(f"{name}_{exc.cause}")) from exc


def decode_json_segment(part: str, name: str) -> dict[str, Any]:
    """The JSON object a part encodes; raises InvalidToken."""
    try:
        return loads_object(b64url_decode(part))
    except DecodeError as exc:
        raise InvalidToken(Reason(f"{name}_{exc.cause}")) from exc


@functools.lru_cache(1024)
def _header(part: str) -> Mapping[str, Any]:
    """The same for all tokens of one key (1.5 µs). Only its form is remembered; the rules look at it every time."""
    return decode_json_segment(part, "header")


def verify(text: str, policy: Policy) -> Player:
    """The player a token vouches for; raises InvalidToken naming the first rule it breaks.

    A token can be verified again until it expires: there is no memory of tokens seen.
    """
    token = parse(text, policy.keyring)
    try:
        for check in CHECKS:
            check(token, policy)
    except InvalidToken as refusal:
        refusal.kid = token.key.kid if token.key else ""
        raise
    claims = token.claims
    return Player(claims["sub"], claims.get("email") or None, claims.get("username") or None, token.header["kid"])


def issue(
    player: Player,
    signer: Signer,
    *,
    issuer: str,
    application_id: str,
    now: int,
    lifetime_s: int = MAX_LIFETIME_S,
    max_lifetime_s: int = MAX_LIFETIME_S,
) -> str:
    """A token for a player; raises IssueError for what `verify` would refuse.

    A signer may have `exp`, the first second at which its key no longer verifies.
    """
    algorithm = jwk.ALGORITHM_NAMES.get(signer.alg)
    if algorithm is None:
        raise IssueError("the signer's alg is not ES256, EdDSA or RS256")
    header = {"alg": signer.alg, "kid": signer.kid, "typ": TYPE}
    claims = {
        "iss": issuer,
        "aud": application_id,
        "sub": player.id,
        "iat": now,
        "exp": now + lifetime_s,
        "jti": secrets.token_urlsafe(16),
        "client_id": application_id,
    }
    # What the player did not agree to share is not in the token at all.
    shared = {"email": player.email, "username": player.username}
    claims |= {name: value for name, value in shared.items() if value not in (None, "")}
    try:
        for rule in CLAIM_RULES:
            rule.check(
                UnverifiedToken(header, claims, b"", b""),
                Policy(issuer, application_id, _NO_KEYS, now, 0, max_lifetime_s),
            )
    except InvalidToken as exc:
        raise IssueError(str(exc)) from exc
    key_exp = getattr(signer, "exp", None)
    if key_exp is not None and now + lifetime_s > key_exp:
        raise IssueError("the key expires before the token would")
    signing_input = f"{_segment(header)}.{_segment(claims)}"
    signature = signer.sign(signing_input.encode("ascii"))
    if algorithm.octets and len(signature) != 2 * algorithm.octets:
        raise IssueError(f"the signer gave {len(signature)} bytes (expected 64, for ES256 raw r and s and not DER)")
    return f"{signing_input}.{b64url_encode(signature)}"


def _segment(decode_json_segment: dict[str, Any]) -> str:
    return b64url_encode(json.dumps(decode_json_segment, separators=(",", ":")).encode())

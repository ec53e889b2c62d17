"""Issuing and verifying a token: a signed JWT (RFC 7519) that carries a player.

It is not a full RFC 9068 access token: `jti` and `client_id` are issued but not required, and there is no scope.
"""

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from verifier.core import jwk
from verifier.core.durations import MAX_LIFETIME_S
from verifier.core.encoding import DecodeError, b64url_decode, b64url_encode, loads_object
from verifier.core.keyring import Keyring
from verifier.core.rules import (
    CLAIM_CHECKS,
    CLAIM_RULES,
    SIGNATURE_CHECKS,
    TYPE,
    Policy,
    UnverifiedToken,
)
from verifier.errors import InvalidToken, IssueError, Reason

Encoded = TypeVar("Encoded")
Decoded = TypeVar("Decoded")
MAX_CACHED_HEADERS = 1024
MAX_CACHED_HEADER_CHARACTERS = 512
_NO_CLAIMS: Mapping[str, Any] = {}
# All tokens of one key have the same header, so decoding it once saves 1.5 µs per token. Only headers of tokens
# that were accepted are kept, because a cache that hostile input can fill would be a way to exhaust memory.
_headers: dict[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Player:
    """A player, as the game backend identified them."""

    id: str
    email: str | None = None
    username: str | None = None
    kid: str = field(default="", compare=False)  # key ID of the key that signed the token


class Signer(Protocol):
    """A signing key: a PEM file, or a key that never leaves an HSM or a cloud KMS."""

    @property
    def kid(self) -> str: ...

    @property
    def alg(self) -> str: ...

    def sign(self, signing_input: bytes) -> bytes:
        """Return the JWS signature (RFC 7518 §3): for ES256 the 64 bytes r and s, not DER."""
        ...


def split_compact(text: str) -> tuple[str, str, str]:
    """Split a compact JWS into header, payload and signature, each still encoded.

    Raises:
        InvalidToken: it does not have three parts.
    """
    signing_input, _, signature = text.rpartition(".")
    header, dot, payload = signing_input.partition(".")
    if not dot or "." in payload:
        raise InvalidToken(Reason.TOKEN_MALFORMED)
    return header, payload, signature


def decode(decoder: Callable[[Encoded], Decoded], data: Encoded, name: str) -> Decoded:
    """Decode the base64url or the JSON of a part of a token.

    Raises:
        InvalidToken: with the reason for the part of this `name` (header, payload or signature).
    """
    try:
        return decoder(data)
    except DecodeError as exc:
        raise InvalidToken(Reason(f"{name}_{exc.cause}")) from exc


def verify(text: str, policy: Policy) -> Player:
    """Verify a token and return its player. A token can be verified again until it expires.

    The claims are parsed only after the signature was verified, because parsing costs time and a forged token
    deserves none.

    Raises:
        InvalidToken: with the reason of the first rule that the token breaks.
    """
    encoded_header, payload, encoded_signature = split_compact(text)
    header = _headers.get(encoded_header)
    cached = header is not None
    if header is None:
        header = decode(loads_object, decode(b64url_decode, encoded_header, "header"), "header")
    claims_json = decode(b64url_decode, payload, "payload")
    signing_input = text[: -len(encoded_signature) - 1].encode("ascii")
    signature = decode(b64url_decode, encoded_signature, "signature")
    key = policy.keyring.find(header.get("kid"))
    token = UnverifiedToken(header, _NO_CLAIMS, signing_input, signature, key)
    try:
        for check in SIGNATURE_CHECKS:
            check(token, policy)
        claims = decode(loads_object, claims_json, "payload")
        token = UnverifiedToken(header, claims, signing_input, signature, key)
        for check in CLAIM_CHECKS:
            check(token, policy)
    except InvalidToken as error:
        error.kid = key.kid if key else ""
        raise
    if not cached and len(encoded_header) <= MAX_CACHED_HEADER_CHARACTERS:
        if len(_headers) >= MAX_CACHED_HEADERS:
            _headers.clear()
        _headers[encoded_header] = header
    return Player(claims["sub"], claims.get("email") or None, claims.get("username") or None, header["kid"])


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
    """Issue a token for a player, valid from `now` for `lifetime_s` seconds. Absent claims are omitted.

    A signer may have `exp`, the first second at which its key no longer verifies.

    Raises:
        IssueError: `verify` would reject the token.
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
    shared = {"email": player.email, "username": player.username}
    claims |= {name: value for name, value in shared.items() if value not in (None, "")}
    try:
        for rule in CLAIM_RULES:
            rule.check(
                UnverifiedToken(header, claims, b"", b""),
                Policy(issuer, application_id, Keyring(), now, 0, max_lifetime_s),
            )
    except InvalidToken as exc:
        raise IssueError(str(exc)) from exc
    key_exp = getattr(signer, "exp", None)
    if key_exp is not None and now + lifetime_s > key_exp:
        raise IssueError("the key expires before the token would")
    signing_input = f"{_encode_segment(header)}.{_encode_segment(claims)}"
    signature = signer.sign(signing_input.encode("ascii"))
    if algorithm.octets and len(signature) != 2 * algorithm.octets:
        raise IssueError(f"the signer returned {len(signature)} bytes (expected 64, for ES256 raw r and s and not DER)")
    return f"{signing_input}.{b64url_encode(signature)}"


def _encode_segment(members: dict[str, Any]) -> str:
    return b64url_encode(json.dumps(members, separators=(",", ":")).encode())

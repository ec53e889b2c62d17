"""Verifying a token: a signed JWT (RFC 7519) that carries a player.

It is not a full RFC 9068 access token: `jti` and `client_id` are issued but not required, and there is no scope.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from verifier.core.encoding import DecodeError, b64url_decode, loads_object
from verifier.core.rules import CLAIM_CHECKS, SIGNATURE_CHECKS, Policy, UnverifiedToken
from verifier.errors import InvalidToken, Reason

Encoded = TypeVar("Encoded")
Decoded = TypeVar("Decoded")
MAX_CACHED_HEADERS = 1024
MAX_CACHED_HEADER_CHARACTERS = 512
_WRAPPING = " \t\r\n\"'`,\ufeff"  # a byte order mark is what Windows writes at the beginning of a file
_SCHEME = re.compile(r"(?:authorization:\s*)?bearer\s", re.IGNORECASE)
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


def unwrap(text: str) -> str:
    """Remove what surrounds a token that was copied: `Bearer`, quotes, white space and commas."""
    text = text.strip(_WRAPPING)
    scheme = _SCHEME.match(text)
    return text[scheme.end() :].lstrip(_WRAPPING) if scheme else text


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
    try:
        encoded_header, payload, encoded_signature = split_compact(text)
        header = _headers.get(encoded_header)
        cached = header is not None
        if header is None:
            header = decode(loads_object, decode(b64url_decode, encoded_header, "header"), "header")
        claims_json = decode(b64url_decode, payload, "payload")
        signing_input = text[: -len(encoded_signature) - 1].encode("ascii")
        signature = decode(b64url_decode, encoded_signature, "signature")
    except InvalidToken as error:
        raise (error if unwrap(text) == text else InvalidToken(Reason.TOKEN_MALFORMED)) from None
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

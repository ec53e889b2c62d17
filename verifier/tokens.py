"""The token profile: a signed JWT (RFC 7519) that carries a player, its rules once for issuing and verifying.

The type and the checks follow RFC 9068 §4 and RFC 8725. It is not a full RFC 9068 token: `jti` and
`client_id` are written but not required, and there is no scope.
"""

import functools
import json
import math
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from verifier import jwk
from verifier.encoding import b64url_decode, b64url_encode, is_text, json_object
from verifier.errors import CannotIssue, InvalidToken
from verifier.keyring import Keyring, PublicKey
from verifier.settings import LEEWAY_S, MAX_LIFETIME_S

TYPE = "at+jwt"  # RFC 9068 §2.1
MAX_SUB_CHARACTERS = 255
MAX_EMAIL_CHARACTERS = 320
MAX_USERNAME_CHARACTERS = 255
_MILLISECONDS = 10**11  # as seconds the year 5138, as milliseconds 1973
_NUMBERS = (int, float)  # and not bool, which is a kind of int
_NO_KEYS = Keyring()
_LONG_S = 10**6  # eleven days: how far off a time is beyond that tells nobody anything


@dataclass(frozen=True, slots=True)
class Player:
    """Who signed in, as the game backend vouches for it."""

    id: str
    email: str | None = None
    username: str | None = None
    kid: str = field(default="", compare=False)  # of the key that vouches


class Policy(NamedTuple):
    """What a token is held against. Durations in seconds; `now` in seconds since 1970-01-01 UTC."""

    issuer: str
    application_id: str
    keyring: Keyring
    now: float
    leeway_s: int = LEEWAY_S
    max_lifetime_s: int = MAX_LIFETIME_S


class Token(NamedTuple):
    """A token taken apart; nothing in it is trusted yet."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes
    key: PublicKey | None = None  # the one its kid names, whatever its stage


class Signer(Protocol):
    """A key that signs: a PEM file, or anything that keeps its key to itself (HSM, cloud KMS)."""

    @property
    def kid(self) -> str: ...

    @property
    def alg(self) -> str: ...

    def sign(self, signing_input: bytes) -> bytes:
        """The JWS signature (RFC 7518 §3): for ES256 the 64 bytes r and s, not DER."""
        ...


def parse(text: str, keyring: Keyring = _NO_KEYS) -> Token:
    """Take a compact JWS (RFC 7515 §7.1) apart, strictly; raises InvalidToken."""
    encoded_header, payload, signature = split(text)
    header = _header(encoded_header)
    return Token(
        header,
        members(payload, "payload"),
        text[: -len(signature) - 1].encode("ascii"),
        octets(signature, "signature"),
        keyring.find(header.get("kid")),
    )


def split(text: str) -> tuple[str, str, str]:
    """Header, payload and signature, still encoded; raises InvalidToken."""
    signing_input, _, signature = text.rpartition(".")
    header, dot, payload = signing_input.partition(".")
    if not dot or "." in payload:
        raise InvalidToken("code is not a compact JWS of three parts")
    return header, payload, signature


def octets(part: str, name: str) -> bytes:
    """What a part encodes; raises InvalidToken."""
    try:
        return b64url_decode(part)
    except ValueError as exc:
        raise InvalidToken(f"{name} {exc}") from exc


def members(part: str, name: str) -> dict[str, Any]:
    """The JSON object a part encodes; raises InvalidToken."""
    try:
        return json_object(b64url_decode(part))
    except ValueError as exc:
        raise InvalidToken(f"{name} {exc}") from exc


@functools.lru_cache(1024)
def _header(part: str) -> Mapping[str, Any]:
    """The same for all tokens of one key (1.5 µs). Only its form is remembered; the rules look at it every time."""
    return members(part, "header")


def verify(text: str, policy: Policy) -> Player:
    """The player a token vouches for; raises InvalidToken naming the first rule it breaks.

    A token can be verified again until it expires: there is no memory of tokens seen.
    """
    token = parse(text, policy.keyring)
    try:
        for check in _CHECKS:
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
    """A token for a player; raises CannotIssue for what `verify` would refuse.

    A signer may have `exp`, the first second at which its key no longer verifies.
    """
    algorithm = jwk.ALGORITHM_NAMES.get(signer.alg)
    if algorithm is None:
        raise CannotIssue("the signer's alg is not ES256, EdDSA or RS256")
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
                Token(header, claims, b"", b""),
                Policy(issuer, application_id, _NO_KEYS, now, 0, max_lifetime_s),
            )
    except InvalidToken as exc:
        raise CannotIssue(str(exc)) from exc
    key_exp = getattr(signer, "exp", None)
    if key_exp is not None and now + lifetime_s > key_exp:
        raise CannotIssue("the key expires before the token would")
    signing_input = f"{_segment(header)}.{_segment(claims)}"
    signature = signer.sign(signing_input.encode("ascii"))
    if algorithm.octets and len(signature) != 2 * algorithm.octets:
        raise CannotIssue(f"the signer gave {len(signature)} bytes (expected 64, for ES256 raw r and s and not DER)")
    return f"{signing_input}.{b64url_encode(signature)}"


def _segment(members: dict[str, Any]) -> str:
    return b64url_encode(json.dumps(members, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the profile."""

    name: str  # the member it is about
    source: str  # where it comes from
    expects: str  # in words, with the fields of Policy
    check: Callable[[Token, Policy], None]  # raises InvalidToken


def _typ(token: Token, _: Policy) -> None:
    typ = token.header.get("typ")
    if typ == "JWT":
        raise InvalidToken("typ is JWT, the default of JWT libraries; it must be at+jwt")
    # A media type without its "application/" (RFC 7515 §4.1.9), in any case (RFC 2045 §5.1).
    if typ != TYPE and (not isinstance(typ, str) or typ.lower().removeprefix("application/") != TYPE):
        raise InvalidToken("typ must be at+jwt")


def _crit(token: Token, _: Policy) -> None:
    for name in ("crit", "b64", "zip"):
        if name in token.header:
            raise InvalidToken(f"{name} in the header is not supported")


def _kid(token: Token, policy: Policy) -> None:
    if "kid" not in token.header:
        raise InvalidToken("kid is missing from the header")
    key = token.key
    if key is None:
        raise InvalidToken("no key has this kid")
    if key.revoked_at is not None:
        raise InvalidToken("the key with this kid is revoked")
    if key.is_dead(policy.now):
        raise InvalidToken("the key with this kid has expired")
    if policy.now < key.nbf - policy.leeway_s:
        raise InvalidToken("the key with this kid is not valid yet")


def _alg(token: Token, _: Policy) -> None:
    alg, key = token.header.get("alg"), token.key
    algorithm = jwk.ALGORITHM_NAMES.get(alg) if isinstance(alg, str) else None
    if algorithm is None:
        raise InvalidToken("alg must be ES256, EdDSA or RS256")
    if key is None or algorithm is not key.algorithm:
        raise InvalidToken("alg is not the algorithm of the key with this kid")


def _signature(token: Token, _: Policy) -> None:
    key, signature = token.key, token.signature
    if key is not None and key.verify(token.signing_input, signature):
        return
    if token.header.get("alg") == "ES256" and 70 <= len(signature) <= 72 and signature[0] == 0x30:
        raise InvalidToken("signature is DER, ES256 needs the 64 bytes r and s (RFC 7518 section 3.4)")
    raise InvalidToken("signature does not match")


def _iss(token: Token, policy: Policy) -> None:
    if token.claims.get("iss") != policy.issuer:
        raise InvalidToken("iss is not the configured issuer")


def _aud(token: Token, policy: Policy) -> None:
    aud = token.claims.get("aud")
    if aud == policy.application_id:
        return
    audience = aud if isinstance(aud, list) else [aud]
    if not all(isinstance(entry, str) for entry in audience):
        raise InvalidToken("aud must be a string or a list of strings")
    if policy.application_id not in audience:
        raise InvalidToken("aud does not contain the applicationId")


def _sub(token: Token, _: Policy) -> None:
    sub = token.claims.get("sub")
    if not isinstance(sub, str) or not sub:
        if isinstance(sub, int | float):
            raise InvalidToken("sub must be a string, not a number")
        raise InvalidToken("sub must be a non-empty string")
    _text(sub, "sub", MAX_SUB_CHARACTERS)


def _email(token: Token, _: Policy) -> None:
    _text(token.claims.get("email"), "email", MAX_EMAIL_CHARACTERS)


def _username(token: Token, _: Policy) -> None:
    _text(token.claims.get("username"), "username", MAX_USERNAME_CHARACTERS)


def _text(value: object, name: str, most: int) -> None:
    # Serializers of C# and Go write null or "" for a field that is not set.
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidToken(f"{name} must be a string")
    if len(value) > most:
        raise InvalidToken(f"{name} is longer than {most} characters")
    if not value.isascii() and not is_text(value):
        raise InvalidToken(f"{name} has half a surrogate pair (half an emoji)")


def _exp(token: Token, policy: Policy) -> None:
    if policy.now >= _instant(token, "exp") + policy.leeway_s:
        raise _aged(InvalidToken("exp is in the past"), token, policy)


def _iat(token: Token, policy: Policy) -> None:
    if _instant(token, "iat") > policy.now + policy.leeway_s:
        raise _aged(InvalidToken("iat is in the future"), token, policy)


def _nbf(token: Token, policy: Policy) -> None:
    if "nbf" in token.claims and _instant(token, "nbf") > policy.now + policy.leeway_s:
        raise _aged(InvalidToken("nbf is in the future"), token, policy)


def _aged(refusal: InvalidToken, token: Token, policy: Policy) -> InvalidToken:
    """The refusal with the token's age: the same for every token where a clock is off."""
    with suppress(InvalidToken):
        refusal.age_s = round(min(max(policy.now - _instant(token, "iat"), -_LONG_S), _LONG_S))
    return refusal


def _lifetime(token: Token, policy: Policy) -> None:
    lifetime_s = _instant(token, "exp") - _instant(token, "iat")
    if lifetime_s <= 0:
        raise InvalidToken("exp is not after iat")
    if lifetime_s > policy.max_lifetime_s:
        raise InvalidToken(f"exp is more than {policy.max_lifetime_s} s after iat")


def _instant(token: Token, name: str) -> float:
    """A NumericDate (RFC 7519 §2): a JSON number of seconds, fractions allowed."""
    value: float = token.claims.get(name, "")
    if type(value) not in _NUMBERS:
        if name not in token.claims:
            raise InvalidToken(f"{name} is missing")
        raise InvalidToken(f"{name} must be a number of seconds")
    if not math.isfinite(value):
        raise InvalidToken(f"{name} must be finite")
    if value > _MILLISECONDS:
        raise InvalidToken(f"{name} looks like milliseconds, it must be in seconds")
    return value


CLAIM_RULES = (
    Rule("iss", "RFC 9068 §4", "{issuer}", _iss),
    Rule("aud", "RFC 9068 §4, RFC 8725 §3.9", "{application_id}, alone or in a list of strings", _aud),
    Rule("sub", "RFC 7519 §4.1.2", f"a string of 1 to {MAX_SUB_CHARACTERS} characters", _sub),
    Rule("exp", "RFC 7519 §4.1.4", "a number of seconds, later than now - {leeway_s} s", _exp),
    Rule("iat", "RFC 7519 §4.1.6", "a number of seconds, at most now + {leeway_s} s", _iat),
    Rule("nbf", "RFC 7519 §4.1.5", "absent, or a number of seconds, at most now + {leeway_s} s", _nbf),
    Rule("lifetime", "this profile", "exp - iat above 0 s, at most {max_lifetime_s} s", _lifetime),
    Rule("email", "this profile", f"absent, or a string of at most {MAX_EMAIL_CHARACTERS} characters", _email),
    Rule(
        "username",
        "this profile",
        f"absent, or a string of at most {MAX_USERNAME_CHARACTERS} characters",
        _username,
    ),
)
# In this order: nothing of the claims is looked at before the signature holds.
RULES = (
    Rule("typ", "RFC 9068 §4, RFC 8725 §3.11", TYPE, _typ),
    Rule("crit", "RFC 7515 §4.1.11, RFC 7797 §6", "no crit, b64 or zip in the header", _crit),
    Rule("kid", "RFC 7515 §4.1.4", "the id of a key that verifies now", _kid),
    Rule("alg", "RFC 8725 §3.1", "ES256, EdDSA or RS256: the one of the key", _alg),
    Rule("signature", "RFC 7515 §5.2", "made by the key over header and payload", _signature),
    *CLAIM_RULES,
)
_CHECKS = tuple(rule.check for rule in RULES)

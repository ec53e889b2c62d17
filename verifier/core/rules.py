"""The token profile as data: what a token is checked against, one rule per claim or header parameter.

The type and the checks follow RFC 9068 §4 and RFC 8725.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from verifier.core import jwk
from verifier.core.encoding import is_utf8_encodable
from verifier.core.keyring import Keyring, PublicKey
from verifier.core.times import LEEWAY_S, MAX_LIFETIME_S, MAX_TIME
from verifier.errors import InvalidToken, Reason

TYPE = "at+jwt"  # RFC 9068 §2.1
MAX_SUB_CHARACTERS = 255
MAX_EMAIL_CHARACTERS = 320
MAX_USERNAME_CHARACTERS = 255
NUMBERS = (int, float)  # exact types, because bool is a subclass of int
MAX_REPORTED_AGE_S = 10**6  # larger offsets are clamped; they carry no diagnostic value


class Policy(NamedTuple):
    """What a token is checked against. Durations in seconds; `now` in seconds since 1970-01-01 UTC."""

    issuer: str
    application_id: str
    keyring: Keyring
    now: float
    leeway_s: int = LEEWAY_S
    max_lifetime_s: int = MAX_LIFETIME_S


class UnverifiedToken(NamedTuple):
    """A parsed token whose signature and claims have not been verified."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes
    key: PublicKey | None = None  # the key that `kid` names, in any state


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the token profile."""

    name: str  # of the header parameter or claim
    source: str  # the specification
    expects: str  # text with the fields of Policy
    check: Callable[[UnverifiedToken, Policy], None]  # raises InvalidToken


def _typ(token: UnverifiedToken, _: Policy) -> None:
    typ = token.header.get("typ")
    if typ == "JWT":
        raise InvalidToken(Reason.TYP_IS_JWT)
    # A media type without its "application/" (RFC 7515 §4.1.9), in any case (RFC 2045 §5.1).
    if typ != TYPE and (not isinstance(typ, str) or typ.lower().removeprefix("application/") != TYPE):
        raise InvalidToken(Reason.TYP_UNEXPECTED if "typ" in token.header else Reason.TYP_MISSING)


def _crit(token: UnverifiedToken, _: Policy) -> None:
    for name in ("crit", "b64", "zip"):
        if name in token.header:
            raise InvalidToken(Reason(f"{name}_unsupported"))


def _kid(token: UnverifiedToken, policy: Policy) -> None:
    if "kid" not in token.header:
        raise InvalidToken(Reason.KID_MISSING)
    key = token.key
    if key is None:
        raise InvalidToken(Reason.UNKNOWN_KEY)
    if key.revoked_at is not None:
        raise InvalidToken(Reason.KEY_REVOKED)
    if key.is_expired(policy.now):
        raise InvalidToken(Reason.KEY_EXPIRED)
    if not key.has_begun(policy.now, policy.leeway_s):
        raise InvalidToken(Reason.KEY_NOT_YET_VALID)


def _alg(token: UnverifiedToken, _: Policy) -> None:
    alg, key = token.header.get("alg"), token.key
    algorithm = jwk.ALGORITHM_NAMES.get(alg) if isinstance(alg, str) else None
    if algorithm is None:
        raise InvalidToken(Reason.ALG_UNSUPPORTED)
    if key is None or algorithm is not key.algorithm:
        raise InvalidToken(Reason.ALG_MISMATCH)


def _signature(token: UnverifiedToken, _: Policy) -> None:
    key, signature = token.key, token.signature
    if key is not None and key.verify(token.signing_input, signature):
        return
    if token.header.get("alg") == "ES256" and 70 <= len(signature) <= 72 and signature[0] == 0x30:
        raise InvalidToken(Reason.SIGNATURE_IS_DER)
    raise InvalidToken(Reason.SIGNATURE_INVALID)


def _iss(token: UnverifiedToken, policy: Policy) -> None:
    if token.claims.get("iss") != policy.issuer:
        raise InvalidToken(Reason.ISS_UNEXPECTED)


def _aud(token: UnverifiedToken, policy: Policy) -> None:
    aud = token.claims.get("aud")
    if aud == policy.application_id:
        return
    audience = aud if isinstance(aud, list) else [aud]
    if not set(map(type, audience)) <= {str}:  # in C, because a list can have thousands of entries
        raise InvalidToken(Reason.AUD_INVALID)
    if policy.application_id not in audience:
        raise InvalidToken(Reason.AUD_UNEXPECTED)


def _sub(token: UnverifiedToken, policy: Policy) -> None:
    sub = token.claims.get("sub")
    if not isinstance(sub, str) or not sub:
        raise InvalidToken(Reason.SUB_IS_NUMBER if isinstance(sub, int | float) else Reason.SUB_MISSING)
    _text(token, policy, "sub", MAX_SUB_CHARACTERS)


def _text(token: UnverifiedToken, _: Policy, name: str, max_characters: int) -> None:
    value = token.claims.get(name)
    # Absent: serializers of C# and Go write null or "" for a field that is not set.
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidToken(Reason(f"{name}_not_string"))
    if len(value) > max_characters:
        raise InvalidToken(Reason(f"{name}_too_long"), limit=max_characters)
    if not value.isascii() and not is_utf8_encodable(value):
        raise InvalidToken(Reason(f"{name}_unpaired_surrogate"))


_email = partial(_text, name="email", max_characters=MAX_EMAIL_CHARACTERS)
_username = partial(_text, name="username", max_characters=MAX_USERNAME_CHARACTERS)


def _exp(token: UnverifiedToken, policy: Policy) -> None:
    if policy.now >= _numeric_date(token, "exp") + policy.leeway_s:
        raise _with_age(Reason.TOKEN_EXPIRED, token, policy)


def _iat(token: UnverifiedToken, policy: Policy) -> None:
    if _numeric_date(token, "iat") > policy.now + policy.leeway_s:
        raise _with_age(Reason.IAT_IN_FUTURE, token, policy)


def _nbf(token: UnverifiedToken, policy: Policy) -> None:
    if "nbf" in token.claims and _numeric_date(token, "nbf") > policy.now + policy.leeway_s:
        raise _with_age(Reason.TOKEN_NOT_YET_VALID, token, policy)


def _with_age(reason: Reason, token: UnverifiedToken, policy: Policy) -> InvalidToken:
    """Return an error about a time with the age of the token, because a wrong clock shows the same age everywhere."""
    error = InvalidToken(reason)
    with suppress(InvalidToken):
        error.age_s = round(min(max(policy.now - _numeric_date(token, "iat"), -MAX_REPORTED_AGE_S), MAX_REPORTED_AGE_S))
    return error


def _lifetime(token: UnverifiedToken, policy: Policy) -> None:
    lifetime_s = _numeric_date(token, "exp") - _numeric_date(token, "iat")
    if lifetime_s <= 0:
        raise InvalidToken(Reason.LIFETIME_NOT_POSITIVE)
    if lifetime_s > policy.max_lifetime_s:
        raise InvalidToken(Reason.LIFETIME_TOO_LONG, limit=policy.max_lifetime_s)


def _numeric_date(token: UnverifiedToken, name: str) -> float:
    """Return a NumericDate (RFC 7519 §2): a JSON number of seconds, fractions allowed.

    Raises:
        InvalidToken: the claim is missing, not a finite number, or in milliseconds.
    """
    value: float = token.claims.get(name, "")
    if type(value) not in NUMBERS:
        raise InvalidToken(Reason(f"{name}_not_number" if name in token.claims else f"{name}_missing"))
    if not math.isfinite(value):
        raise InvalidToken(Reason(f"{name}_not_finite"))
    if value > MAX_TIME:
        raise InvalidToken(Reason(f"{name}_in_milliseconds"))
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
    Rule("username", "this profile", f"absent, or a string of at most {MAX_USERNAME_CHARACTERS} characters", _username),
)
SIGNATURE_RULES = (
    Rule("typ", "RFC 9068 §4, RFC 8725 §3.11", TYPE, _typ),
    Rule("crit", "RFC 7515 §4.1.11, RFC 7797 §6", "no crit, b64 or zip in the header", _crit),
    Rule("kid", "RFC 7515 §4.1.4", "the key ID of a key that verifies now", _kid),
    Rule("alg", "RFC 8725 §3.1", "ES256, EdDSA or RS256: the one of the key", _alg),
    Rule("signature", "RFC 7515 §5.2", "made by the key over header and payload", _signature),
)
RULES = (*SIGNATURE_RULES, *CLAIM_RULES)  # in this order: no claim is read before the signature is verified
SIGNATURE_CHECKS = tuple(rule.check for rule in SIGNATURE_RULES)
CLAIM_CHECKS = tuple(rule.check for rule in CLAIM_RULES)

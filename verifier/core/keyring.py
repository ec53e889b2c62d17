"""The keys that check signatures, and when each of them may."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from verifier.core import jwk
from verifier.core.encoding import is_utf8_encodable, loads_object
from verifier.errors import KeyFileError

_PUBLISHED = ("kty", "crv", "alg", "use", "kid", "iat", "nbf", "exp")


class KeyState(StrEnum):
    """Where a key is in its life."""

    PENDING = "pending"  # published, signs from nbf on
    CURRENT = "current"  # signs: the newest with nbf <= now
    RETIRING = "retiring"  # a newer one is current; verifies until exp
    EXPIRED = "expired"  # exp <= now
    REVOKED = "revoked"  # whatever its dates say


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that checks signatures, and when it may. Instants are whole seconds since 1970-01-01 UTC."""

    kid: str  # RFC 7638 thumbprint, equal to the file's name
    algorithm: jwk.Algorithm  # the only one it is used with (RFC 8725 §3.1)
    key: Any = field(repr=False)  # object of the cryptography package
    members: Mapping[str, Any] = field(repr=False)  # the JWK as published
    iat: int  # when it was made
    nbf: int  # first second it signs; it verifies from the leeway earlier
    exp: int | None = None  # first second it no longer verifies
    revoked_at: int | None = None  # set: it verifies nothing
    reason: str = ""  # why it was revoked; anyone's words

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's. The signature only: dates are the business of `tokens`."""
        return self.algorithm.pyjwt.verify(signing_input, self.key, signature)

    def has_ended(self, now: float) -> bool:
        """Expired or revoked: it never verifies again."""
        return self.revoked_at is not None or (self.exp is not None and self.exp <= now)


def parse_public_key(name: str, data: bytes | str) -> PublicKey:
    """The key of one file of `keys/public`; raises KeyFileError.

    Members: kty, crv, x, y, e, n as in RFC 7518 §6; alg; use "sig"; kid; and the registered dates
    iat, nbf, exp, revoked {revoked_at, reason} (OpenID Federation 1.0 §8.7.2).
    """
    if isinstance(data, str):
        raise KeyFileError(f"cannot be read ({data})")
    try:
        members = loads_object(data)
    except ValueError as exc:
        raise KeyFileError(str(exc)) from exc
    algorithm, key = jwk.load(members)
    expected = jwk.thumbprint(members)
    for what, found in (("kid", members.get("kid")), ("file name", name.removesuffix(".json"))):
        if found != expected:
            found = found if str(found).isprintable() else ascii(found)
            raise KeyFileError(f"{what} does not match the key (found {found!s:.43}, expected {expected})")
    if members.get("use", "sig") != "sig":
        raise KeyFileError("use is not sig")
    iat, nbf = _parse_date(members, "iat"), _parse_date(members, "nbf")
    exp = _parse_date(members, "exp") if "exp" in members else None
    if exp is not None and exp <= nbf:
        raise KeyFileError("exp is not after nbf")
    if "revoked" not in members:
        return PublicKey(expected, algorithm, key, members, iat, nbf, exp)
    revoked = members["revoked"]
    if not isinstance(revoked, dict) or not is_utf8_encodable(revoked.get("reason", "")):
        raise KeyFileError("revoked is not an object with revoked_at and reason")
    revoked_at = _parse_date(revoked, "revoked_at")
    return PublicKey(expected, algorithm, key, members, iat, nbf, exp, revoked_at, revoked.get("reason", ""))


def _parse_date(members: Mapping[str, Any], name: str) -> int:
    value = members.get(name)
    # Up to the year 5138: beyond lie milliseconds.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10**11:
        raise KeyFileError(f"{name} is missing or not a whole number of seconds since 1970")
    return value


def _sort_key(key: PublicKey) -> tuple[int, float, str]:
    # Of two keys with one nbf the newer is the one that ends later: a rotation ends the older.
    return key.nbf, math.inf if key.exp is None else key.exp, key.kid


class Keyring:
    """An immutable set of keys and its schedule."""

    def __init__(self, keys: Iterable[PublicKey] = ()) -> None:
        self.keys: Mapping[str, PublicKey] = {key.kid: key for key in sorted(keys, key=_sort_key)}
        known = [[k.kid, k.nbf, k.exp, k.revoked_at] for k in self.keys.values()]
        # Two replicas with the same digest accept and refuse the same keys at every moment.
        self.digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def find(self, kid: object) -> PublicKey | None:
        """The key with this id, whatever its state, or None."""
        return self.keys.get(kid) if isinstance(kid, str) else None

    def current(self, now: float) -> PublicKey | None:
        """The key that signs now: the newest with `nbf <= now` that is neither expired nor revoked."""
        started = [key for key in self.keys.values() if key.nbf <= now and not key.has_ended(now)]
        return started[-1] if started else None

    def state(self, key: PublicKey, now: float) -> KeyState:
        """Where this key is in its life now."""
        if key.revoked_at is not None:
            return KeyState.REVOKED
        if key.has_ended(now):
            return KeyState.EXPIRED
        if key.nbf > now:
            return KeyState.PENDING
        return KeyState.CURRENT if key is self.current(now) else KeyState.RETIRING

    def verification_keys(self, now: float, leeway_s: int) -> list[PublicKey]:
        """The keys that verify now."""
        return [key for key in self.keys.values() if key.nbf - leeway_s <= now and not key.has_ended(now)]

    def jwks(self, now: float) -> list[Mapping[str, Any]]:
        """The JWKs of all keys that verify now or will: also pending ones, so that anyone can see them arrive.

        Without members of a file that are not checked: whatever they hold would be published.
        """
        return [
            {name: key.members[name] for name in (*key.algorithm.members, *_PUBLISHED) if name in key.members}
            for key in self.keys.values()
            if not key.has_ended(now)
        ]

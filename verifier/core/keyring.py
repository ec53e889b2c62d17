"""Public keys, their states, and the schedule of a key set."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeGuard

from verifier.core import jwk
from verifier.core.encoding import is_utf8_encodable, loads_object
from verifier.core.times import MAX_TIME
from verifier.errors import KeyFileError

_PUBLISHED = ("alg", "use", "kid", "iat", "nbf", "exp")


class KeyState(StrEnum):
    """The state of a key. In terms of NIST SP 800-57 Part 1 §7: pre-activation, active, deactivated (two), compromised.

    The values are part of the history on disk.
    """

    PENDING = "pending"  # pre-activation: published, signs from nbf on
    CURRENT = "current"  # active: signs and verifies; the newest with nbf <= now
    RETIRING = "retiring"  # deactivated for signing, verifies until exp
    EXPIRED = "expired"  # deactivated: exp <= now
    REVOKED = "revoked"  # compromised: rejected whatever its dates are


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key and its dates, in whole seconds since 1970-01-01 UTC."""

    kid: str  # RFC 7638 thumbprint, equal to the file's name
    algorithm: jwk.Algorithm  # the only one it is used with (RFC 8725 §3.1)
    key: Any = field(repr=False)  # object of the cryptography package
    members: Mapping[str, Any] = field(repr=False)  # the JWK as published
    iat: int  # when it was created
    nbf: int  # first second it signs; it verifies from the leeway earlier
    exp: int | None = None  # first second it no longer verifies
    revoked_at: int | None = None  # set: every token is rejected
    reason: str = ""  # why it was revoked; anyone's words

    def verify(self, signing_input: bytes, signature: bytes) -> bool:
        """Return whether the signature was made with this key. Dates are checked by `rules`."""
        return self.algorithm.pyjwt.verify(signing_input, self.key, signature)

    def is_expired(self, now: float) -> bool:
        """Return whether the end of the key has come; there is no leeway, because the end is planned with it."""
        return self.exp is not None and self.exp <= now

    def has_ended(self, now: float) -> bool:
        """Return whether the key has expired or is revoked, so that it never verifies again."""
        return self.revoked_at is not None or self.is_expired(now)

    def has_begun(self, now: float, leeway_s: int) -> bool:
        """Return whether the key verifies already: the clock of a signer that uses it may be ahead by the leeway."""
        return self.nbf - leeway_s <= now


def parse_public_key(name: str, data: bytes | str) -> PublicKey:
    """Parse one file of `keys/public`.

    Members: kty, crv, x, y, e, n as in RFC 7518 §6; alg; use "sig"; kid; and the registered dates
    iat, nbf, exp, revoked {revoked_at, reason} (OpenID Federation 1.0 §8.7.2).

    Raises:
        KeyFileError: the file cannot be read, is not a supported public key, or has another key ID or invalid dates.
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
    if not is_date(value):
        raise KeyFileError(f"{name} is missing or not a whole number of seconds since 1970")
    return value


def is_date(value: object) -> TypeGuard[int]:
    """Return whether a value is a date of a key: a whole number of seconds since 1970, not of milliseconds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TIME


def digest_of(keys: Iterable[tuple[str, int, int | None, int | None]]) -> str:
    """Return the digest of kid, nbf, exp and revoked_at. Replicas with the same one always accept the same keys."""
    known = sorted(keys, key=lambda key: _order(*key[:3]))
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _order(kid: str, nbf: int, exp: int | None) -> tuple[int, float, str]:
    # Of two keys with the same nbf, the newer one ends later, because a rotation ends the older one.
    return nbf, math.inf if exp is None else exp, kid


def _state(key: PublicKey, now: float, current: PublicKey | None) -> KeyState:
    if key.revoked_at is not None:
        return KeyState.REVOKED
    if key.is_expired(now):
        return KeyState.EXPIRED
    if key.nbf > now:
        return KeyState.PENDING
    return KeyState.CURRENT if key is current else KeyState.RETIRING


class Keyring:
    """An immutable set of keys and its schedule."""

    def __init__(self, keys: Iterable[PublicKey] = ()) -> None:
        in_order = sorted(keys, key=lambda key: _order(key.kid, key.nbf, key.exp))
        self.keys: Mapping[str, PublicKey] = {key.kid: key for key in in_order}
        self.digest = digest_of((k.kid, k.nbf, k.exp, k.revoked_at) for k in self.keys.values())

    def find(self, kid: object) -> PublicKey | None:
        """Return the key with this key ID, in any state, or None."""
        return self.keys.get(kid) if isinstance(kid, str) else None

    def current(self, now: float) -> PublicKey | None:
        """Return the key that signs now: the newest with `nbf <= now` that is neither expired nor revoked."""
        started = [key for key in self.keys.values() if key.nbf <= now and not key.has_ended(now)]
        return started[-1] if started else None

    def state(self, key: PublicKey, now: float) -> KeyState:
        """Return the state of a key at a time."""
        return _state(key, now, self.current(now))

    def states(self, now: float) -> dict[str, KeyState]:
        """Return the state of every key by its kid."""
        current = self.current(now)
        return {key.kid: _state(key, now, current) for key in self.keys.values()}

    def verification_keys(self, now: float, leeway_s: int) -> list[PublicKey]:
        """Return the keys that verify now."""
        return [key for key in self.keys.values() if key.has_begun(now, leeway_s) and not key.has_ended(now)]

    def jwks(self, now: float) -> list[Mapping[str, Any]]:
        """Return the JWKs of all keys that verify now or will, so that anyone can see a pending key arrive.

        Only checked members are included, because anything else in a file would be published unchecked.
        """
        return [
            {name: key.members[name] for name in (*key.algorithm.members, *_PUBLISHED) if name in key.members}
            for key in self.keys.values()
            if not key.has_ended(now)
        ]

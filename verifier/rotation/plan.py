"""Which change of keys is safe: plans, made from a keyring and an instant, before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verifier.core.keyring import Keyring, KeyState, PublicKey
from verifier.core.rules import LEEWAY_S, MAX_LIFETIME_S
from verifier.core.times import when
from verifier.errors import UnsafeOperationError
from verifier.rotation.history import ABSENT, REMOVED

LEAD_S = 3600  # from publishing a key to its first signature
RETENTION_S = 400 * 86_400  # a public file after its key has ended
CRYPTOPERIOD_S = 90 * 86_400  # how long a key signs
# kubelet takes up to two minutes to update a mounted ConfigMap, a replica one second to read it;
# the rest is for the humans who look.
PROPAGATION_S = 600


@dataclass(frozen=True, slots=True)
class OverlapPolicy:
    """How long a token of the old key may still arrive."""

    max_lifetime_s: int = MAX_LIFETIME_S
    leeway_s: int = LEEWAY_S

    @property
    def overlap_s(self) -> int:
        """From the new nbf to the old exp: a signer that switches late, a full life, a verifier that is late."""
        return self.max_lifetime_s + 2 * self.leeway_s


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What happens to one key: its JWK afterwards (None: removed), and the states before and after."""

    kid: str
    members: Mapping[str, Any] | None = field(repr=False)
    old: str
    new: str
    reason: str = ""
    previous_exp: int | None = None
    drop_private: bool = False


Plan = list[KeyChange]  # in the order in which it is safe to write: a key is published before another ends


def activate_first_key(jwk: Mapping[str, Any], *, now: int) -> KeyChange:
    """A key that signs at once."""
    dates = {"iat": now, "nbf": jwk.get("nbf", now)} | {n: jwk[n] for n in ("exp",) if n in jwk}
    return KeyChange(jwk["kid"], {**jwk, **dates}, ABSENT, KeyState.CURRENT)


def rotate(
    keyring: Keyring,
    jwk: Mapping[str, Any],
    *,
    now: int,
    lead_s: int = LEAD_S,
    window: OverlapPolicy = OverlapPolicy(),
    force: bool = False,
) -> Plan:
    """Publish the next key as pending, and end the current one when its last token has expired.

    Refuses a second pending key, and without `force` a lead in which not every replica has the new key
    and a current key that would end too soon.
    """
    current = _current(keyring, now)
    pending = _pending(keyring, now)
    if pending is not None:
        raise UnsafeOperationError(
            f"a key is pending already (found {pending.kid}, current from {when(pending.nbf)})",
            hint="wait until it is current, or withdraw it: verifier keys cancel",
        )
    if lead_s < PROPAGATION_S and not force:
        raise UnsafeOperationError(
            f"the lead is too short for every replica to have the key (found {lead_s} s, expected {PROPAGATION_S} s)",
            hint="--force if every replica reads this folder directly",
        )
    nbf = now + lead_s
    exp = nbf + window.overlap_s
    if current.exp is not None and current.exp < exp and not force:
        raise UnsafeOperationError(
            f"the current key expires too soon (found {when(current.exp)}, expected {when(exp)} or later)",
            hint="choose a shorter --lead, or --force to let it live longer",
        )
    return [
        KeyChange(
            jwk["kid"], {**jwk, "iat": now, "nbf": nbf}, ABSENT, KeyState.PENDING if lead_s else KeyState.CURRENT
        ),
        KeyChange(
            current.kid,
            {**current.members, "exp": exp},
            KeyState.CURRENT,
            KeyState.CURRENT if lead_s else KeyState.RETIRING,
            previous_exp=current.exp,
        ),
    ]


def cancel(
    keyring: Keyring,
    *,
    now: int,
    previous_exp: int | None,
    window: OverlapPolicy = OverlapPolicy(),
    force: bool = False,
) -> Plan:
    """Withdraw the pending key, and give the current one the end it had before.

    Refuses, without `force`, when a signer may begin to sign with the key before it hears of this.
    """
    pending = _pending(keyring, now)
    if pending is None:
        raise UnsafeOperationError("no key is pending", hint="verifier keys list")
    if pending.nbf - now < PROPAGATION_S and not force:
        raise UnsafeOperationError(
            f"the key signs too soon for every signer to hear of it (found {pending.nbf - now} s, "
            f"expected {PROPAGATION_S} s or more)",
            hint="let it become current and rotate again; --force if every signer reads this folder directly",
        )
    return [
        *_extend_current(keyring, now, previous_exp, window),
        KeyChange(pending.kid, None, KeyState.PENDING, REMOVED, drop_private=True),
    ]


def _extend_current(keyring: Keyring, now: int, previous_exp: int | None, window: OverlapPolicy) -> Plan:
    current = keyring.current(now)
    if current is None or current.exp is None:
        return []
    members = {name: value for name, value in current.members.items() if name != "exp"}
    # Not before the tokens that it has signed meanwhile have expired.
    members |= {} if previous_exp is None else {"exp": max(previous_exp, now + window.overlap_s)}
    return [KeyChange(current.kid, members, KeyState.CURRENT, KeyState.CURRENT, previous_exp=current.exp)]


def revoke(
    keyring: Keyring,
    key: PublicKey,
    reason: str,
    *,
    now: int,
    replacement: Mapping[str, Any] | None = None,
    previous_exp: int | None = None,
    window: OverlapPolicy = OverlapPolicy(),
    force: bool = False,
) -> Plan:
    """Refuse every token of a key from now on; with `replacement`, make that key current in the same step.

    A pending key takes the place of a replacement: the replicas have it already. Only a current key is replaced.
    Refuses, without `force`, to leave no current key, or one that ends before the next can be rotated in.
    """
    state = keyring.state(key, now)
    if state in (KeyState.REVOKED, KeyState.EXPIRED):
        raise UnsafeOperationError(f"the key is {state} already (found {key.kid})", hint="verifier keys list")
    revoked = {**key.members, "revoked": {"revoked_at": now, "reason": reason}}
    step = KeyChange(key.kid, revoked, state, KeyState.REVOKED, reason)
    if state is KeyState.PENDING:
        return [*_extend_current(keyring, now, previous_exp, window), step]
    if state is KeyState.RETIRING:
        return [step]
    if replacement is not None:
        # Since a little while: a signer whose clock is behind would go back to a retiring key.
        nbf = max(key.nbf, now - window.leeway_s)
        pending = _pending(keyring, now)
        if pending is not None:
            return [KeyChange(pending.kid, {**pending.members, "nbf": nbf}, KeyState.PENDING, KeyState.CURRENT), step]
        return [activate_first_key({**replacement, "nbf": nbf}, now=now), step]
    rest = Keyring(k for k in keyring.keys.values() if k is not key)
    current = rest.current(now)
    # A retiring key would sign again, and its last tokens outlive it.
    if not force and (current is None or (current.exp is not None and current.exp < now + LEAD_S + window.overlap_s)):
        until = "" if current is None or current.exp is None else f" after {when(current.exp)}"
        raise UnsafeOperationError(
            f"no other key can sign{until}: every sign-in would be refused",
            hint="--replace makes a new key current in the same step; --force revokes all the same",
        )
    return [step]


def prune(keyring: Keyring, *, now: int, retention_s: int = RETENTION_S) -> Plan:
    """Remove what no longer serves: private halves that no longer sign, public files out of retention."""
    plan = []
    current = keyring.current(now)
    # A signer whose clock is behind still loads the key before.
    last_signature = now if current is None else current.nbf + LEEWAY_S
    for key in keyring.keys.values():
        state = keyring.state(key, now)
        ended = min(instant for instant in (key.exp, key.revoked_at, now) if instant is not None)
        if key.has_ended(now) and ended <= now - retention_s:
            plan.append(KeyChange(key.kid, None, state, REMOVED, drop_private=True))
        elif state in (KeyState.EXPIRED, KeyState.REVOKED) or (state is KeyState.RETIRING and now >= last_signature):
            plan.append(KeyChange(key.kid, key.members, state, state, drop_private=True))
    return plan


def _current(keyring: Keyring, now: int) -> PublicKey:
    current = keyring.current(now)
    if current is None:
        raise UnsafeOperationError("no key is current", hint="make one: verifier keys generate")
    return current


def _pending(keyring: Keyring, now: int) -> PublicKey | None:
    return next((key for key in keyring.keys.values() if keyring.state(key, now) is KeyState.PENDING), None)

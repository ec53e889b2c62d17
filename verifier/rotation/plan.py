"""Which change of keys is safe: plans, made from a keyring and an instant, before anything is written."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from verifier.core.keyring import Keyring, KeyState, PublicKey, parse_public_key
from verifier.core.times import LEAD_S, LEEWAY_S, MAX_LIFETIME_S, RETENTION_S, utc, when
from verifier.errors import UnsafeOperationError
from verifier.rotation.history import ABSENT, REMOVED

# kubelet takes up to two minutes to update a mounted ConfigMap, and a replica one second to read it;
# the rest is a margin for manual checks.
PROPAGATION_S = 600


@dataclass(frozen=True, slots=True)
class OverlapPolicy:
    """How long a token of the old key may still arrive."""

    max_lifetime_s: int = MAX_LIFETIME_S
    leeway_s: int = LEEWAY_S

    @classmethod
    def recorded(cls, entry: Any) -> "OverlapPolicy | None":
        """Return the policy that a line of the history or a response of a replica names; None if it names none."""
        if entry.max_lifetime_s is None or entry.leeway_s is None:
            return None
        return cls(entry.max_lifetime_s, entry.leeway_s)

    @property
    def overlap_s(self) -> int:
        """From the new nbf to the old exp: a signer that switches late, a full lifetime, a verifier that is late."""
        return self.max_lifetime_s + 2 * self.leeway_s

    @property
    def max_clock_offset_s(self) -> int:
        """How far the clock of a replica may be off: a considerable part of the leeway is left."""
        return max(2, self.leeway_s // 2)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """The change of one key: its JWK afterwards (None: removed), and the states before and after."""

    kid: str
    members: Mapping[str, Any] | None = field(repr=False)
    old: str
    new: str
    reason: str = ""
    previous_exp: int | None = None
    drop_private: bool = False


Plan = list[KeyChange]  # in the order in which it is safe to write: a key is published before another ends
PreviousExp = Callable[[str], int | None]  # the end that a key had without a successor, by kid; None: no end


def valid_until(plan: Plan, keyring: Keyring, now: int) -> int | None:
    """Return the last second at which a plan may still be carried out if its command is interrupted; None: always.

    Until then, every replica has time to read a new key before it signs, and a key is withdrawn before it signs.
    """
    limits = []
    for step in plan:
        key = keyring.find(step.kid)
        if step.old == ABSENT and step.members is not None:
            limits.append(max(now, step.members["nbf"] - PROPAGATION_S) if step.new == KeyState.PENDING else now)
        elif step.new == REMOVED and key is not None and keyring.state(key, now) is KeyState.PENDING:
            limits.append(max(now, key.nbf - PROPAGATION_S))
    if limits and keyring.current(now) is None:
        return now + PROPAGATION_S  # a first key replaces none
    return min(limits, default=None)


def activate_first_key(jwk: Mapping[str, Any], *, now: int) -> KeyChange:
    """Plan a key that signs immediately."""
    dates = {"iat": now, "nbf": jwk.get("nbf", now)} | {n: jwk[n] for n in ("exp",) if n in jwk}
    return KeyChange(jwk["kid"], {**jwk, **dates}, ABSENT, KeyState.CURRENT)


def activate_keys(jwks: Iterable[Mapping[str, Any]], *, now: int) -> Plan:
    """Plan the keys of another system with their own dates, each with the state that it has among them."""
    plan = [activate_first_key(jwk, now=now) for jwk in jwks]
    keys = [parse_public_key(f"{step.kid}.json", json.dumps(step.members).encode()) for step in plan]
    ring = Keyring(keys)
    return [replace(step, new=ring.state(key, now)) for step, key in zip(plan, keys, strict=True)]


def require_no_current_or_pending(keyring: Keyring, now: int) -> None:
    """Refuse a first key beside one that signs or will sign.

    Raises:
        UnsafeOperationError: there is a current or a pending key.
    """
    current = keyring.current(now)
    if current is not None:
        raise UnsafeOperationError(
            f"a key is current already (found {current.kid})", hint="schedule the next one: verifier keys rotate"
        )
    for key in pending_keys(keyring, now):
        raise UnsafeOperationError(
            f"a key is pending (found {key.kid}, active from {when(key.nbf)})",
            hint=f"wait until then, or correct this clock if it is behind; to withdraw the key: "
            f"verifier keys cancel --kid {key.kid[:8]}",
        )


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
    for pending in pending_keys(keyring, now):
        raise UnsafeOperationError(
            f"a key is pending already (found {pending.kid}, active from {when(pending.nbf)})",
            hint=f"wait until it is active, or withdraw it: verifier keys cancel --kid {pending.kid[:8]}",
        )
    current = keyring.current(now)
    if current is None:
        raise UnsafeOperationError("no key is current", hint="make one: verifier keys generate")
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
            hint="choose a shorter --lead, or --force to move its end",
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


def choose_pending(keyring: Keyring, now: int, prefix: str | None = None) -> PublicKey:
    """Return the pending key that a command means.

    Raises:
        UnsafeOperationError: no pending key or several pending keys match.
    """
    pending = pending_keys(keyring, now)
    found = [key for key in pending if key.kid.startswith(prefix or "")]
    if len(found) == 1:
        return found[0]
    if not pending:
        raise UnsafeOperationError("no key is pending", hint="verifier keys list")
    names = ", ".join(f"{key.kid} (active from {utc(key.nbf)})" for key in pending)
    if not found:
        raise UnsafeOperationError(f"no pending key matches {prefix!r} (found {names})", hint="verifier keys list")
    raise UnsafeOperationError(f"{len(found)} keys are pending: {names}", hint="name one of them with --kid")


def cancel(
    keyring: Keyring,
    *,
    now: int,
    previous_exp: PreviousExp,
    key: PublicKey | None = None,
    window: OverlapPolicy = OverlapPolicy(),
    force: bool = False,
) -> Plan:
    """Withdraw a pending key, and recompute the end of the key before it from the keys that remain.

    Refuses, without `force`, when a signer may start to use the key before it learns of this.
    """
    pending = key or choose_pending(keyring, now)
    if pending.nbf - now < PROPAGATION_S and not force:
        raise UnsafeOperationError(
            f"the key becomes active too soon for every signer to learn of this (found {pending.nbf - now} s, "
            f"expected {PROPAGATION_S} s or more)",
            hint="let it become active and rotate again; --force if every signer reads this folder directly",
        )
    return [
        *_without(keyring, pending, now, previous_exp, window),
        KeyChange(pending.kid, None, KeyState.PENDING, REMOVED, drop_private=True),
    ]


def give_up(
    keyring: Keyring,
    kid: str,
    reason: str,
    *,
    now: int,
    previous_exp: PreviousExp,
    replacement: Mapping[str, Any] | None = None,
    signable: frozenset[str] | None = None,
    window: OverlapPolicy = OverlapPolicy(),
    force: bool = False,
) -> Plan:
    """Withdraw a key for ever whose file is missing, and recompute the ends of the keys that remain; as `revoke`."""
    current = keyring.current(now)
    step = KeyChange(kid, None, "missing", REMOVED, f"file missing: {reason}")
    if current is None and replacement is not None:
        return [*_replace_current(keyring, replacement, now - window.leeway_s, now, signable, window), step]
    if current is None and not force:
        raise _no_other_key(None)
    live, plan = [*([current] if current else []), *pending_keys(keyring, now)], []
    for number, key in enumerate(live, start=1):
        plan += _reschedule(keyring, key, live[number:], now, previous_exp, window)
    return [*plan, step]


def _without(keyring: Keyring, leaving: PublicKey, now: int, previous_exp: PreviousExp, window: OverlapPolicy) -> Plan:
    """Give the key before a leaving pending key the end that the next remaining key requires."""
    before, after = _around(keyring, leaving, now)
    return _reschedule(keyring, before[-1], after, now, previous_exp, window) if before else []


def _around(keyring: Keyring, key: PublicKey, now: int) -> tuple[list[PublicKey], list[PublicKey]]:
    """Return the live keys before a live key, and those after it."""
    live = live_keys(keyring, now)
    return live[: live.index(key)], live[live.index(key) + 1 :]


def _reschedule(
    keyring: Keyring, key: PublicKey, after: list[PublicKey], now: int, previous_exp: PreviousExp, window: OverlapPolicy
) -> Plan:
    """Give a key the end that the next key requires; the end that it had before if there is none."""
    if key.exp is None:
        return []
    members = {name: value for name, value in key.members.items() if name != "exp"}
    # Not before the tokens that it has signed meanwhile have expired.
    soonest = max(now, key.nbf) + window.overlap_s
    if after:
        members["exp"] = max(after[0].nbf + window.overlap_s, soonest)
    elif (end := previous_exp(key.kid)) is not None:
        members["exp"] = max(end, soonest)
    state = keyring.state(key, now)
    return [KeyChange(key.kid, members, state, state, previous_exp=key.exp)]


def revoke(
    keyring: Keyring,
    key: PublicKey,
    reason: str,
    *,
    now: int,
    replacement: Mapping[str, Any] | None = None,
    signable: frozenset[str] | None = None,
    previous_exp: PreviousExp = lambda _: None,
    window: OverlapPolicy = OverlapPolicy(),
    force: bool = False,
) -> Plan:
    """Reject every token of a key from now on; with `replacement`, another key takes its place in the same step.

    For a current key that is a pending one, because the replicas have it already, if its private key is in
    `signable` (None: signing happens elsewhere). A retiring or expired key has a successor already. An expired key
    can still be revoked, to record that it was compromised.
    Refuses, without `force`, to leave no current key, or one that ends before the next can be rotated in.
    """
    state = keyring.state(key, now)
    if state is KeyState.REVOKED:
        raise UnsafeOperationError(f"the key is revoked already (found {key.kid})", hint="verifier keys list")
    revoked = {**key.members, "revoked": {"revoked_at": now, "reason": reason}}
    step = KeyChange(key.kid, revoked, state, KeyState.REVOKED, reason)
    rest = Keyring(k for k in keyring.keys.values() if k is not key)
    if state in (KeyState.RETIRING, KeyState.EXPIRED):
        return [step]
    if state is KeyState.PENDING:
        if replacement is not None and not any(k.nbf >= key.nbf for k in pending_keys(rest, now)):
            return [*_replace_pending(keyring, key, replacement, now, window), step]
        if rest.current(now) is None and not force:
            raise _no_other_key(None)
        return [*_without(keyring, key, now, previous_exp, window), step]
    if replacement is not None:
        # Backdate nbf by the leeway, or a signer with a slow clock falls back to a retiring key.
        nbf = max(key.nbf, now - window.leeway_s)
        return [*_replace_current(rest, replacement, nbf, now, signable, window), step]
    current = rest.current(now)
    # A retiring key would sign again, and its last tokens outlive it.
    if not force and (current is None or (current.exp is not None and current.exp < now + LEAD_S + window.overlap_s)):
        raise _no_other_key(current)
    return [step]


def _no_other_key(current: PublicKey | None) -> UnsafeOperationError:
    until = "" if current is None or current.exp is None else f" after {when(current.exp)}"
    return UnsafeOperationError(
        f"no other key can sign{until}: every sign-in would be rejected",
        hint="--replace makes another key current in the same step; --force revokes without one",
    )


def _replace_current(
    rest: Keyring,
    replacement: Mapping[str, Any],
    nbf: int,
    now: int,
    signable: frozenset[str] | None,
    window: OverlapPolicy,
) -> Plan:
    pending = pending_keys(rest, now)
    for key in pending:
        if signable is None or key.kid in signable:
            return [KeyChange(key.kid, {**key.members, "nbf": nbf}, KeyState.PENDING, KeyState.CURRENT)]
    end = {"exp": pending[0].nbf + window.overlap_s} if pending else {}
    return [activate_first_key({**replacement, "nbf": nbf, **end}, now=now)]


def _replace_pending(
    keyring: Keyring, key: PublicKey, replacement: Mapping[str, Any], now: int, window: OverlapPolicy
) -> Plan:
    """Publish another pending key, not before every replica can have it; without a current key, a current one."""
    earlier, _ = _around(keyring, key, now)
    if not earlier:
        return [activate_first_key({**replacement, "nbf": now - window.leeway_s}, now=now)]
    before = earlier[-1]
    nbf = max(key.nbf, now + LEAD_S)
    plan = [KeyChange(replacement["kid"], {**replacement, "iat": now, "nbf": nbf}, ABSENT, KeyState.PENDING)]
    if before.exp is not None:
        state, exp = keyring.state(before, now), max(before.exp, nbf + window.overlap_s)
        plan.append(KeyChange(before.kid, {**before.members, "exp": exp}, state, state, previous_exp=before.exp))
    return plan


def prune(
    keyring: Keyring,
    *,
    now: int,
    retention_s: int = RETENTION_S,
    leeway_s: int = LEEWAY_S,
    published: Mapping[str, int] | None = None,
    signable: frozenset[str] | None = None,
    ended_kids: Collection[str] = (),
) -> Plan:
    """Remove what is no longer used: private keys that no longer sign, public files out of retention.

    `published` is when each key was published: a replica may not have a current key that is newer than the
    propagation time. `signable` are the private keys that are here, `ended_kids` those that the history records as
    ended: a private key without a public file may belong to another branch unless it is one of them.
    """
    plan = []
    current = keyring.current(now)
    last_signature = now
    if current is not None:
        # A signer whose clock is behind still loads the previous key.
        last_signature = max(current.nbf + leeway_s, (published or {}).get(current.kid, 0) + PROPAGATION_S)
    replaced = current is None or signable is None or current.kid in signable
    for key in keyring.keys.values():
        state = keyring.state(key, now)
        ended = min(instant for instant in (key.exp, key.revoked_at, now) if instant is not None)
        if key.has_ended(now) and ended <= now - retention_s:
            plan.append(KeyChange(key.kid, None, state, REMOVED, drop_private=True))
        elif state in (KeyState.EXPIRED, KeyState.REVOKED) or (
            state is KeyState.RETIRING and replaced and now >= last_signature
        ):
            plan.append(KeyChange(key.kid, key.members, state, state, drop_private=True))
    orphans = (signable or frozenset()) & set(ended_kids) - keyring.keys.keys()
    return [*plan, *(KeyChange(kid, None, REMOVED, REMOVED, drop_private=True) for kid in sorted(orphans))]


def rotate_by(keyring: Keyring, now: int, cryptoperiod_s: int) -> int | None:
    """Return when the cryptoperiod of the newest key ends, the pending or the current one; None without a key."""
    pending = pending_keys(keyring, now)
    newest = pending[-1] if pending else keyring.current(now)
    return None if newest is None else newest.nbf + cryptoperiod_s


def live_keys(keyring: Keyring, now: int) -> list[PublicKey]:
    """Return the keys that verify now or will, by nbf."""
    return [key for key in keyring.keys.values() if not key.has_ended(now)]


def pending_keys(keyring: Keyring, now: int) -> list[PublicKey]:
    """Return the pending keys, the one that becomes active first in front."""
    return [key for key in keyring.keys.values() if keyring.state(key, now) is KeyState.PENDING]

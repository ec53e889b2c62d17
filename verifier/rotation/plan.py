"""Which change of keys is safe: plans, made from a keyring and an instant, before anything is written."""

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from verifier.core.keyring import Keyring, KeyState, PublicKey, parse_public_key
from verifier.core.times import LEAD_S, LEEWAY_S, MAX_LIFETIME_S, RETENTION_S, utc, when
from verifier.errors import UnsafeOperationError
from verifier.rotation.history import ABSENT, REMOVED, Event, ended

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
    return KeyChange(jwk["kid"], {**jwk, "iat": now, "nbf": jwk.get("nbf", now)}, ABSENT, KeyState.CURRENT)


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans the changes of a keyring at an instant; refuses, without `force`, what would reject players."""

    keyring: Keyring
    now: int
    window: OverlapPolicy = OverlapPolicy()
    force: bool = False
    signable: frozenset[str] | None = None  # kids whose private keys are here; None: signing happens elsewhere
    previous_exp: PreviousExp = lambda _: None

    def begin(self, jwks: Iterable[Mapping[str, Any]]) -> Plan:
        """Activate the first keys, with their own dates if they have any, each with the state that it has among them.

        Refuses them beside a key that signs or will sign.
        """
        current = self.keyring.current(self.now)
        if current is not None:
            raise UnsafeOperationError(
                f"a key is current already (found {current.kid})", hint="schedule the next one: verifier keys rotate"
            )
        for key in pending_keys(self.keyring, self.now):
            raise UnsafeOperationError(
                f"a key is pending (found {key.kid}, active from {when(key.nbf)})",
                hint=f"wait until then, or correct this clock if it is behind; to withdraw the key: "
                f"verifier keys cancel --kid {key.kid[:8]}",
            )
        plan = [activate_first_key(jwk, now=self.now) for jwk in jwks]
        keys = [parse_public_key(f"{step.kid}.json", json.dumps(step.members).encode()) for step in plan]
        ring = Keyring(keys)
        return [replace(step, new=ring.state(key, self.now)) for step, key in zip(plan, keys, strict=True)]

    def rotate(self, jwk: Mapping[str, Any], lead_s: int = LEAD_S) -> Plan:
        """Publish the next key as pending, and end the current one when its last token has expired.

        Refuses a second pending key, and without `force` a lead in which not every replica has the new key
        and a current key that would end too soon.
        """
        for pending in pending_keys(self.keyring, self.now):
            raise UnsafeOperationError(
                f"a key is pending already (found {pending.kid}, active from {when(pending.nbf)})",
                hint=f"wait until it is active, or withdraw it: verifier keys cancel --kid {pending.kid[:8]}",
            )
        current = self.keyring.current(self.now)
        if current is None:
            raise UnsafeOperationError("no key is current", hint="make one: verifier keys generate")
        if lead_s < PROPAGATION_S and not self.force:
            raise UnsafeOperationError(
                f"the lead is too short for every replica to have the key (found {lead_s} s, "
                f"expected {PROPAGATION_S} s)",
                hint="--force if every replica reads this folder directly",
            )
        nbf = self.now + lead_s
        exp = nbf + self.window.overlap_s
        if current.exp is not None and current.exp < exp and not self.force:
            raise UnsafeOperationError(
                f"the current key expires too soon (found {when(current.exp)}, expected {when(exp)} or later)",
                hint="choose a shorter --lead, or --force to move its end",
            )
        first, second = (KeyState.PENDING, KeyState.CURRENT) if lead_s else (KeyState.CURRENT, KeyState.RETIRING)
        return [
            KeyChange(jwk["kid"], {**jwk, "iat": self.now, "nbf": nbf}, ABSENT, first),
            KeyChange(current.kid, {**current.members, "exp": exp}, KeyState.CURRENT, second, previous_exp=current.exp),
        ]

    def cancel(self, prefix: str = "") -> Plan:
        """Withdraw the pending key with this prefix, and recompute the end of the key before it.

        Refuses, without `force`, when a signer may start to use the key before it learns of this.
        """
        pending = self._choose_pending(prefix)
        if pending.nbf - self.now < PROPAGATION_S and not self.force:
            raise UnsafeOperationError(
                f"the key becomes active too soon for every signer to read this (found {pending.nbf - self.now} s, "
                f"expected {PROPAGATION_S} s or more)",
                hint="let it become active and rotate again; --force if every signer reads this folder directly",
            )
        return [
            *self._without(pending),
            KeyChange(pending.kid, None, KeyState.PENDING, REMOVED, drop_private=True),
        ]

    def _choose_pending(self, prefix: str) -> PublicKey:
        pending = pending_keys(self.keyring, self.now)
        found = [key for key in pending if key.kid.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if not pending:
            raise UnsafeOperationError("no key is pending", hint="verifier keys list")
        names = ", ".join(f"{key.kid} (active from {utc(key.nbf)})" for key in pending)
        if not found:
            raise UnsafeOperationError(f"no pending key matches {prefix!r} (found {names})", hint="verifier keys list")
        raise UnsafeOperationError(f"{len(found)} keys are pending: {names}", hint="name one of them with --kid")

    def give_up(self, kid: str, reason: str, replacement: Mapping[str, Any] | None = None) -> Plan:
        """Withdraw a key for ever whose file is missing, and recompute the ends of the rest; as `revoke`."""
        current = self.keyring.current(self.now)
        step = KeyChange(kid, None, "missing", REMOVED, f"file missing: {reason}")
        if current is None and replacement is not None:
            return [*self._replace_current(replacement, self.now - self.window.leeway_s), step]
        if current is None and not self.force:
            raise _no_other_key(None)
        live = [*([current] if current else []), *pending_keys(self.keyring, self.now)]
        ends = [self._reschedule(key, live[number:]) for number, key in enumerate(live, start=1)]
        return [*itertools.chain(*ends), step]

    def revoke(self, key: PublicKey, reason: str, replacement: Mapping[str, Any] | None = None) -> Plan:
        """Reject every token of a key from now on; with `replacement`, another key takes its place in the same step.

        For a current key that is a pending one, because the replicas have it already, if its private key is in
        `signable`. A retiring or expired key has a successor already. An expired key can still be revoked, to record
        that it was compromised.
        Refuses, without `force`, to leave no current key, or one that ends before the next can be rotated in.
        """
        state = self.keyring.state(key, self.now)
        if state is KeyState.REVOKED:
            raise UnsafeOperationError(f"the key is revoked already (found {key.kid})", hint="verifier keys list")
        revoked = {**key.members, "revoked": {"revoked_at": self.now, "reason": reason}}
        step = KeyChange(key.kid, revoked, state, KeyState.REVOKED, reason)
        if state in (KeyState.RETIRING, KeyState.EXPIRED):
            return [step]
        rest = replace(self, keyring=Keyring(k for k in self.keyring.keys.values() if k is not key))
        current = rest.keyring.current(self.now)
        if state is KeyState.PENDING:
            if replacement is not None and not any(k.nbf >= key.nbf for k in pending_keys(rest.keyring, self.now)):
                return [*self._replace_pending(key, replacement), step]
            if current is None and not self.force:
                raise _no_other_key(None)
            return [*self._without(key), step]
        if replacement is not None:
            # Backdate nbf by the leeway, or a signer with a slow clock falls back to a retiring key.
            return [*rest._replace_current(replacement, max(key.nbf, self.now - self.window.leeway_s)), step]
        # A retiring key would sign again, and its last tokens outlive it.
        needed = self.now + LEAD_S + self.window.overlap_s
        if not self.force and (current is None or (current.exp is not None and current.exp < needed)):
            raise _no_other_key(current)
        return [step]

    def prune(self, retention_s: int = RETENTION_S, events: Collection[Event] = ()) -> Plan:
        """Remove what is no longer used: private keys that no longer sign, public files out of retention.

        The events of the history say when each key was published, because a replica may not have a current key that is
        newer than the propagation time, and which have ended: another private key without a public file may belong to
        another branch.
        """
        plan, now = [], self.now
        current = self.keyring.current(now)
        last_signature = now
        if current is not None:
            published = max((e.at for e in events if e.kid == current.kid and e.old == ABSENT), default=0)
            # A signer whose clock is behind still loads the previous key.
            last_signature = max(current.nbf + self.window.leeway_s, published + PROPAGATION_S)
        replaced = current is None or self.signable is None or current.kid in self.signable
        for key in self.keyring.keys.values():
            state = self.keyring.state(key, now)
            end = min(instant for instant in (key.exp, key.revoked_at, now) if instant is not None)
            if key.has_ended(now) and end <= now - retention_s:
                plan.append(KeyChange(key.kid, None, state, REMOVED, drop_private=True))
            elif state in (KeyState.EXPIRED, KeyState.REVOKED) or (
                state is KeyState.RETIRING and replaced and now >= last_signature
            ):
                plan.append(KeyChange(key.kid, key.members, state, state, drop_private=True))
        orphans = (self.signable or frozenset()) & ended(events, now) - self.keyring.keys.keys()
        return [*plan, *(KeyChange(kid, None, REMOVED, REMOVED, drop_private=True) for kid in sorted(orphans))]

    def _without(self, leaving: PublicKey) -> Plan:
        """Give the key before a leaving pending key the end that the next remaining key requires."""
        live = live_keys(self.keyring, self.now)
        index = live.index(leaving)
        return self._reschedule(live[index - 1], live[index + 1 :]) if index else []

    def _reschedule(self, key: PublicKey, after: list[PublicKey]) -> Plan:
        """Give a key the end that the next key requires; the end that it had before if there is none."""
        if key.exp is None:
            return []
        # Not before the tokens that it has signed meanwhile have expired.
        soonest = max(self.now, key.nbf) + self.window.overlap_s
        wanted = after[0].nbf + self.window.overlap_s if after else self.previous_exp(key.kid)
        return [self._move_end(key, None if wanted is None else max(wanted, soonest))]

    def _move_end(self, key: PublicKey, exp: int | None) -> KeyChange:
        members = {name: value for name, value in key.members.items() if name != "exp"}
        state = self.keyring.state(key, self.now)
        end = {} if exp is None else {"exp": exp}
        return KeyChange(key.kid, members | end, state, state, previous_exp=key.exp)

    def _replace_current(self, replacement: Mapping[str, Any], nbf: int) -> Plan:
        pending = pending_keys(self.keyring, self.now)
        for key in pending:
            if self.signable is None or key.kid in self.signable:
                return [KeyChange(key.kid, {**key.members, "nbf": nbf}, KeyState.PENDING, KeyState.CURRENT)]
        end = {"exp": pending[0].nbf + self.window.overlap_s} if pending else {}
        return [activate_first_key({**replacement, "nbf": nbf, **end}, now=self.now)]

    def _replace_pending(self, key: PublicKey, replacement: Mapping[str, Any]) -> Plan:
        """Publish another pending key, not before every replica can have it; without a current key, a current one."""
        live = live_keys(self.keyring, self.now)
        if live[0] is key:
            return [activate_first_key({**replacement, "nbf": self.now - self.window.leeway_s}, now=self.now)]
        nbf = max(key.nbf, self.now + LEAD_S)
        members = {**replacement, "iat": self.now, "nbf": nbf}
        plan = [KeyChange(replacement["kid"], members, ABSENT, KeyState.PENDING)]
        before = live[live.index(key) - 1]
        if before.exp is not None:
            plan.append(self._move_end(before, max(before.exp, nbf + self.window.overlap_s)))
        return plan


def _no_other_key(current: PublicKey | None) -> UnsafeOperationError:
    until = "" if current is None or current.exp is None else f" after {when(current.exp)}"
    return UnsafeOperationError(
        f"no other key can sign{until}: every sign-in would be rejected",
        hint="--replace makes another key current in the same step; --force revokes without one",
    )


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

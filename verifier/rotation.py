"""Which change of keys is safe: plans, made from a keyring and an instant, before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verifier.errors import CommandRefused
from verifier.history import GONE, NONE
from verifier.keyring import Keyring, PublicKey, Stage
from verifier.settings import LEAD_S, LEEWAY_S, MAX_LIFETIME_S, RETENTION_S
from verifier.times import when

# kubelet takes up to two minutes to update a mounted ConfigMap, a replica one second to read it;
# the rest is for the humans who look.
PROPAGATION_S = 600


@dataclass(frozen=True, slots=True)
class Window:
    """How long a token of the old key may still arrive."""

    max_lifetime_s: int = MAX_LIFETIME_S
    leeway_s: int = LEEWAY_S

    @property
    def overlap_s(self) -> int:
        """From the new nbf to the old exp: a signer that switches late, a full life, a verifier that is late."""
        return self.max_lifetime_s + 2 * self.leeway_s


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one key: its JWK afterwards (None: removed), and the stages before and after."""

    kid: str
    members: Mapping[str, Any] | None = field(repr=False)
    old: str
    new: str
    reason: str = ""
    previous_exp: int | None = None
    drop_private: bool = False


Plan = list[Step]  # in the order in which it is safe to write: a key is published before another ends


def introduce(jwk: Mapping[str, Any], *, now: int) -> Step:
    """A key that signs at once."""
    dates = {"iat": now, "nbf": jwk.get("nbf", now)} | {n: jwk[n] for n in ("exp",) if n in jwk}
    return Step(jwk["kid"], {**jwk, **dates}, NONE, Stage.CURRENT)


def rotate(
    keyring: Keyring,
    jwk: Mapping[str, Any],
    *,
    now: int,
    lead_s: int = LEAD_S,
    window: Window = Window(),
    force: bool = False,
) -> Plan:
    """Publish the next key as pending, and end the current one when its last token has expired.

    Refuses a second pending key, and without `force` a lead in which not every replica has the new key
    and a current key that would end too soon.
    """
    current = _current(keyring, now)
    pending = _pending(keyring, now)
    if pending is not None:
        raise CommandRefused(
            f"a key is pending already (found {pending.kid}, current from {when(pending.nbf)})",
            hint="wait until it is current, or withdraw it: verifier keys cancel",
        )
    if lead_s < PROPAGATION_S and not force:
        raise CommandRefused(
            f"the lead is too short for every replica to have the key (found {lead_s} s, expected {PROPAGATION_S} s)",
            hint="--force if every replica reads this folder directly",
        )
    nbf = now + lead_s
    exp = nbf + window.overlap_s
    if current.exp is not None and current.exp < exp and not force:
        raise CommandRefused(
            f"the current key expires too soon (found {when(current.exp)}, expected {when(exp)} or later)",
            hint="choose a shorter --lead, or --force to let it live longer",
        )
    return [
        Step(jwk["kid"], {**jwk, "iat": now, "nbf": nbf}, NONE, Stage.PENDING if lead_s else Stage.CURRENT),
        Step(
            current.kid,
            {**current.members, "exp": exp},
            Stage.CURRENT,
            Stage.CURRENT if lead_s else Stage.RETIRING,
            previous_exp=current.exp,
        ),
    ]


def cancel(
    keyring: Keyring, *, now: int, previous_exp: int | None, window: Window = Window(), force: bool = False
) -> Plan:
    """Withdraw the pending key, and give the current one the end it had before.

    Refuses, without `force`, when a signer may begin to sign with the key before it hears of this.
    """
    pending = _pending(keyring, now)
    if pending is None:
        raise CommandRefused("no key is pending", hint="verifier keys list")
    if pending.nbf - now < PROPAGATION_S and not force:
        raise CommandRefused(
            f"the key signs too soon for every signer to hear of it (found {pending.nbf - now} s, "
            f"expected {PROPAGATION_S} s or more)",
            hint="let it become current and rotate again; --force if every signer reads this folder directly",
        )
    return [
        *_prolong(keyring, now, previous_exp, window),
        Step(pending.kid, None, Stage.PENDING, GONE, drop_private=True),
    ]


def _prolong(keyring: Keyring, now: int, previous_exp: int | None, window: Window) -> Plan:
    current = keyring.current(now)
    if current is None or current.exp is None:
        return []
    members = {name: value for name, value in current.members.items() if name != "exp"}
    # Not before the tokens that it has signed meanwhile have expired.
    members |= {} if previous_exp is None else {"exp": max(previous_exp, now + window.overlap_s)}
    return [Step(current.kid, members, Stage.CURRENT, Stage.CURRENT, previous_exp=current.exp)]


def revoke(
    keyring: Keyring,
    key: PublicKey,
    reason: str,
    *,
    now: int,
    replacement: Mapping[str, Any] | None = None,
    previous_exp: int | None = None,
    window: Window = Window(),
    force: bool = False,
) -> Plan:
    """Refuse every token of a key from now on; with `replacement`, make that key current in the same step.

    A pending key takes the place of a replacement: the replicas have it already. Only a current key is replaced.
    Refuses, without `force`, to leave no current key, or one that ends before the next can be rotated in.
    """
    stage = keyring.stage(key, now)
    if stage in (Stage.REVOKED, Stage.EXPIRED):
        raise CommandRefused(f"the key is {stage} already (found {key.kid})", hint="verifier keys list")
    revoked = {**key.members, "revoked": {"revoked_at": now, "reason": reason}}
    step = Step(key.kid, revoked, stage, Stage.REVOKED, reason)
    if stage is Stage.PENDING:
        return [*_prolong(keyring, now, previous_exp, window), step]
    if stage is Stage.RETIRING:
        return [step]
    if replacement is not None:
        # Since a little while: a signer whose clock is behind would go back to a retiring key.
        nbf = max(key.nbf, now - window.leeway_s)
        pending = _pending(keyring, now)
        if pending is not None:
            return [Step(pending.kid, {**pending.members, "nbf": nbf}, Stage.PENDING, Stage.CURRENT), step]
        return [introduce({**replacement, "nbf": nbf}, now=now), step]
    rest = Keyring(k for k in keyring.keys.values() if k is not key)
    current = rest.current(now)
    # A retiring key would sign again, and its last tokens outlive it.
    if not force and (current is None or (current.exp is not None and current.exp < now + LEAD_S + window.overlap_s)):
        until = "" if current is None or current.exp is None else f" after {when(current.exp)}"
        raise CommandRefused(
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
        stage = keyring.stage(key, now)
        ended = min(instant for instant in (key.exp, key.revoked_at, now) if instant is not None)
        if key.is_dead(now) and ended <= now - retention_s:
            plan.append(Step(key.kid, None, stage, GONE, drop_private=True))
        elif stage in (Stage.EXPIRED, Stage.REVOKED) or (stage is Stage.RETIRING and now >= last_signature):
            plan.append(Step(key.kid, key.members, stage, stage, drop_private=True))
    return plan


def _current(keyring: Keyring, now: int) -> PublicKey:
    current = keyring.current(now)
    if current is None:
        raise CommandRefused("no key is current", hint="make one: verifier keys generate")
    return current


def _pending(keyring: Keyring, now: int) -> PublicKey | None:
    return next((key for key in keyring.keys.values() if keyring.stage(key, now) is Stage.PENDING), None)

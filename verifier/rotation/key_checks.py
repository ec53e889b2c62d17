"""Checks of the keys' dates: that a key signs, and that each token can be verified until it expires."""

from verifier.core.keyring import KeyState
from verifier.core.times import MAX_LIFETIME_S, duration, format_duration, utc
from verifier.rotation import switch_checks
from verifier.rotation.history import ended, replay
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import PROPAGATION_S
from verifier.rotation.violation import Violation, Violations

_RECORDED_END = {"revoked_at": "was revoked", "removed_at": "was removed", "exp": "expired"}
WARNING_S = 14 * 86_400  # before the cryptoperiod ends


def no_current(inventory: Inventory) -> Violations:
    """Find that no key signs."""
    if inventory.keyring.current(inventory.now) is None:
        yield Violation("no key is current: every sign-in is rejected", _how_to_have_a_current_key(inventory))


def _how_to_have_a_current_key(inventory: Inventory) -> str:
    """Return the remediation where `keys generate` would refuse; otherwise ""."""
    recorded = replay(inventory.history.events)
    missing = recorded.keys() - ended(inventory.history.events, inventory.now) - inventory.keyring.keys.keys()
    names = [problem.partition(": ")[0] for problem in inventory.problems]
    names += [name for kid in sorted(missing) if (name := f"{inventory.folder}/public/{kid}.json") not in names]
    if names:
        return f"repair {', '.join(names)}, or restore it from version control; do not generate a key beside it"
    pending = inventory.keys_in(KeyState.PENDING)
    if any(line is not None and line.at > inventory.now for line in inventory.history.lines):
        return "correct the clock of this machine, or of the one that wrote the history (NTP)"
    if pending:
        return (
            f"{pending[0].kid} signs from {utc(pending[0].nbf)}; for a key now: verifier keys revoke --kid "
            f"{pending[0].kid[:8]} --replace --reason '...'"
        )
    return ""


def no_successor(inventory: Inventory) -> Violations:
    """Find that the last key ends."""
    live = inventory.live_keys()
    if live and live[-1].exp is not None:
        yield f"{live[-1].kid} is the last key and expires {utc(live[-1].exp)}: every sign-in is rejected after that"


def endless_retiring(inventory: Inventory) -> Violations:
    """Find keys that verify for ever beside their successor."""
    for key in inventory.live_keys()[:-1]:
        if key.exp is None:
            yield f"{key.kid} has a successor and no expiry"


def late(inventory: Inventory) -> Violations:
    """Find changes that replicas and signers would get after a key began to sign, for example of an old branch."""
    if inventory.deployed is None:
        return
    now, soon = inventory.now, inventory.now + PROPAGATION_S - 1
    signing = {key.kid: key for key in map(inventory.deployed.current, (now, soon)) if key is not None}
    here = {kid: inventory.keyring.find(kid) for kid in signing}
    for kid in [kid for kid in signing if here[kid] is None]:
        yield f"{kid} signs {_from(signing[kid].nbf, now)} where the keys are deployed, and is removed here"
    following = inventory.keyring.current(soon)
    revoked = any(key is not None and key.revoked_at is not None for key in here.values())  # which must not wait
    if following is not None and signing and not revoked:
        deployed = inventory.deployed.find(following.kid)
        if deployed is None or deployed.nbf > following.nbf:
            yield f"{following.kid} signs {_from(following.nbf, now)} and is not deployed"


def _from(nbf: int, now: int) -> str:
    return f"{'since' if nbf <= now else 'from'} {utc(nbf)}"


def pending_twice(inventory: Inventory) -> Violations:
    """Find more than one pending key."""
    pending = inventory.keys_in(KeyState.PENDING)
    if len(pending) > 1:
        kids = " or ".join(f"verifier keys cancel --kid {key.kid[:8]}" for key in pending)
        yield Violation(f"{len(pending)} keys are pending", f"withdraw all but one: {kids}")


def cryptoperiod(inventory: Inventory) -> Violations:
    """Find a key that has signed for too long."""
    for key in inventory.keys_in(KeyState.CURRENT):
        age_s = inventory.now - key.nbf
        if age_s > inventory.cryptoperiod_s:
            yield f"{key.kid} has signed for {age_s // 86_400} days, at most {duration(inventory.cryptoperiod_s)}"


def rotation_due(inventory: Inventory) -> Violations:
    """Find a key whose cryptoperiod ends soon and that has no successor yet."""
    if inventory.keys_in(KeyState.PENDING):
        return
    for key in inventory.keys_in(KeyState.CURRENT):
        limit = key.nbf + inventory.cryptoperiod_s
        if limit - WARNING_S < inventory.now <= limit:
            yield f"{key.kid} must be rotated by {utc(limit)}"


def lifetime(inventory: Inventory) -> Violations:
    """Find settings under which a stolen token can be used for long."""
    if inventory.window.max_lifetime_s > MAX_LIFETIME_S:
        yield f"tokens may live {inventory.window.max_lifetime_s} s, at most {MAX_LIFETIME_S} s"


def late_uses(inventory: Inventory) -> Violations:
    """Find keys that a replica accepted after their end, when the change must have arrived, or that are not here."""
    rows = {row["kid"]: row for row in switch_checks.keys(inventory)}
    for (kind, kid), at in sorted(inventory.last_use.items()):
        if kind != "key":
            continue
        found = f"a token of {kid} was accepted {utc(int(at))}"
        until = rows[kid]["verifies_until"] if kid in rows else 0
        if kid not in rows:
            yield f"{found}, and no such key was ever here"
        elif until is not None and at > until + PROPAGATION_S:
            ended = next(word for name, word in _RECORDED_END.items() if rows[kid][name] == until)
            yield f"{found}, {format_duration(int(at) - until)} after it {ended}"

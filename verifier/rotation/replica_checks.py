"""Checks of the replicas: that each runs with the keys, the clock and the settings that the page describes."""

from verifier.rotation.inventory import Inventory
from verifier.rotation.replicas import Replica
from verifier.rotation.violation import Violations


def same(inventory: Inventory, replica: Replica) -> bool:
    """Return whether a replica serves with exactly the keys that are here."""
    known = all(map(inventory.keyring.find, replica.kids))  # otherwise its digest is that of other keys than it lists
    return not replica.problem and replica.ready and known and replica.digest == inventory.keyring.digest


def trusted_without_reason(inventory: Inventory, replica: Replica) -> list[str]:
    """Return the keys that a replica trusts and that are revoked, expired or unknown here."""
    live = {key.kid for key in inventory.live_keys()}
    return [kid for kid in replica.kids if kid not in live]


def lacking(inventory: Inventory, replica: Replica) -> list[str]:
    """Return the keys that a replica should trust and does not."""
    return [] if replica.problem else [key.kid for key in inventory.live_keys() if key.kid not in replica.kids]


def trusts_revoked(inventory: Inventory) -> Violations:
    """Find replicas that accept tokens of a revoked key."""
    for replica in inventory.replicas:
        for kid in trusted_without_reason(inventory, replica):
            key = inventory.keyring.find(kid)
            if key is not None and key.revoked_at is not None:
                yield f"{replica.url} still trusts {kid}, which is revoked"


def unreachable(inventory: Inventory) -> Violations:
    """Find replicas without a usable response."""
    for replica in inventory.replicas:
        if replica.problem:
            yield f"{replica.url}: {replica.problem}"


def differs(inventory: Inventory) -> Violations:
    """Find replicas with other keys, and those that do not serve."""
    states = inventory.keyring.states(inventory.now)
    for replica in inventory.replicas:
        if replica.problem or same(inventory, replica):
            continue
        found = [f"lacks {states[kid]} {kid}" for kid in lacking(inventory, replica)]
        found += [f"still has {kid}" for kid in trusted_without_reason(inventory, replica)]
        if not found and replica.digest != inventory.keyring.digest:
            found.append("has the same keys with other dates")
        if not replica.ready:
            found.append("is not ready")
        yield f"{replica.url} {', '.join(found)}"


def clocks(inventory: Inventory) -> Violations:
    """Find replicas whose clock is off by a considerable part of the leeway."""
    limit_s = inventory.window.max_clock_offset_s
    for replica in inventory.replicas:
        offset = replica.clock_offset_s
        if not replica.problem and offset is None:
            yield f"{replica.url} sends no Date, so that its clock is unknown"
        if offset is not None and abs(offset) > limit_s:
            yield f"{replica.url}: its clock is {abs(offset)} s {'fast' if offset > 0 else 'slow'}, at most {limit_s} s"


def settings(inventory: Inventory) -> Violations:
    """Find replicas with another maximum lifetime or leeway."""
    for replica in inventory.replicas:
        for name, found, expected in (
            ("the maximum lifetime", replica.max_lifetime_s, inventory.window.max_lifetime_s),
            ("the leeway", replica.leeway_s, inventory.window.leeway_s),
        ):
            if found is not None and found != expected:
                yield f"{replica.url}: {name} is {found} s, expected {expected} s"

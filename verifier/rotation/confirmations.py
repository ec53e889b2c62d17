"""What recorded confirmations prove about a switch: which replicas had its key, and the overlap that they need."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from verifier.rotation.history import Confirmation
from verifier.rotation.plan import OverlapPolicy


def needed_overlap(confirmations: Iterable[Confirmation], published: int, switch: int, before: float = math.inf) -> int:
    """Return the longest overlap that replicas need by the settings they were last confirmed with; 0: not known.

    While the key was pending; without such a record, as of the one that is nearest to the switch.
    """
    known = [(e, p.overlap_s) for e in confirmations if (p := OverlapPolicy.recorded(e)) and e.at < before]
    pending = {entry.replica: needed for entry, needed in known if published <= entry.at <= switch}
    distance = min((abs(entry.at - switch) for entry, _ in known), default=0)
    nearest = [needed for entry, needed in known if abs(entry.at - switch) == distance]
    return max(pending.values() or nearest, default=0)


def summarize(
    confirmations: Sequence[Confirmation], published: int, switch: int, planned_s: int
) -> dict[str, Any] | None:
    """Return how many replicas were confirmed to have a key before it signed, by their last record; None without any.

    `planned_s` is the overlap of the switch. `ahead_s` is how long before it the last of them was first confirmed.
    """
    last: dict[str, bool] = {}
    first: dict[str, int] = {}
    for entry in confirmations:
        if published <= entry.at < switch:
            last[entry.replica] = _passes(entry, planned_s)
            if last[entry.replica]:
                first.setdefault(entry.replica, entry.at)
    if not last:
        return None
    confirmed = [first[replica] for replica, good in last.items() if good]
    ahead_s = switch - max(confirmed) if confirmed else None
    return {"confirmed": len(confirmed), "replicas": len(last), "ahead_s": ahead_s}


def summarize_revocation(confirmations: Sequence[Confirmation], revoked_at: int) -> dict[str, Any] | None:
    """Return how many replicas were confirmed to have a revocation, and when the last of them was; None without any."""
    found: dict[str, int | None] = {}
    for entry in confirmations:
        if entry.at >= revoked_at and found.get(entry.replica) is None:
            found[entry.replica] = entry.at if entry.confirmed else None
    confirmed = [at for at in found.values() if at is not None]
    if not found:
        return None
    after_s = max(confirmed) - revoked_at if confirmed else None
    return {"confirmed": len(confirmed), "replicas": len(found), "after_s": after_s}


def _passes(entry: Confirmation, planned_s: int) -> bool:
    """Return whether keys, clock and settings pass; lines of older versions say so for the keys only."""
    policy = OverlapPolicy.recorded(entry)
    limit_s = (policy or OverlapPolicy()).max_clock_offset_s
    return (
        entry.confirmed
        and abs(entry.clock_offset_s or 0) <= limit_s
        and (policy is None or policy.overlap_s <= planned_s)
    )

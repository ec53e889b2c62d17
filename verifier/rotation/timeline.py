"""Which key was trusted and which one signed, at every moment: from the key files and the history."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from verifier.core.keyring import Keyring, KeyState
from verifier.rotation.confirmations import needed_overlap, summarize
from verifier.rotation.history import REMOVED, Confirmation, Event, merged_events
from verifier.rotation.plan import OverlapPolicy


def keys(keyring: Keyring, events: Iterable[Event], window: OverlapPolicy, now: int) -> list[dict[str, Any]]:
    """Return every key that is here or that a command removed, with its intervals of trust and of signing; by nbf."""
    events = list(merged_events(events))
    found = _removed(events)
    for key in keyring.keys.values():
        found[key.kid] = {
            "kid": key.kid,
            "alg": key.algorithm.name,
            "state": str(keyring.state(key, now)),
            "made_at": key.iat,
            "removed_at": None,
        } | {name: getattr(key, name) for name in ("nbf", "exp", "revoked_at", "reason")}
    needed = {(e.kid, e.exp): policy.overlap_s for e in events if (policy := OverlapPolicy.recorded(e)) is not None}
    rows = sorted(found.values(), key=lambda row: (row["nbf"], row["kid"]))
    for row in rows:
        ends = [row[name] for name in ("exp", "revoked_at", "removed_at") if row[name] is not None]
        row["verifies_from"] = max(row["nbf"] - window.leeway_s, row["made_at"])
        row["verifies_until"] = min(ends, default=None)
        row["needed_s"] = needed.get((row["kid"], row["exp"]), window.overlap_s)
        row["signs"] = []
    _add_signing_intervals(rows)
    return rows


def _removed(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Return the keys whose files a command removed, from the history."""
    recorded: dict[str, dict[str, Any]] = {}
    for event in events:
        row = recorded.setdefault(event.kid, {"kid": event.kid, "alg": event.alg, "made_at": event.at, "reason": ""})
        row |= {"state": REMOVED, "removed_at": event.at if event.new == REMOVED else None}
        if event.nbf is not None:  # the event of a removal carries no dates
            row |= {"nbf": event.nbf, "exp": event.exp, "revoked_at": event.revoked_at}
        if event.new == KeyState.REVOKED != event.old:
            row["reason"] = event.reason
        elif event.new == REMOVED and event.revokes:  # its file was missing
            row |= {"revoked_at": event.at, "reason": event.reason}
    # A key that is recorded and not here, and was removed by no command, is a finding of the audit.
    return {kid: row for kid, row in recorded.items() if row["removed_at"] is not None and "nbf" in row}


def _add_signing_intervals(rows: list[dict[str, Any]]) -> None:
    """Add the signing intervals to each key: at any moment the newest active key signs."""
    begins = {row["kid"]: max(row["nbf"], row["made_at"]) for row in rows}
    ends = {row["kid"]: row["verifies_until"] or math.inf for row in rows}
    instants = sorted({*begins.values(), *(end for end in ends.values() if end != math.inf)})
    for start, until in itertools.pairwise([*instants, None]):
        able = [row for row in rows if begins[row["kid"]] <= start < ends[row["kid"]]]
        if not able:
            continue
        intervals = able[-1]["signs"]
        if intervals and intervals[-1][1] == start:
            intervals[-1][1] = until
        else:
            intervals.append([start, until])


def transitions(
    rows: list[dict[str, Any]], confirmations: Sequence[Confirmation] = (), running_s: int = 0, now: int = 0
) -> list[dict[str, Any]]:
    """Return each change of the signing key: how long tokens of the old key stayed valid, and who had the new one.

    `running_s` is the overlap that the replicas need that run now.
    """
    signing = ((start, until, row) for row in rows for start, until in row["signs"])
    intervals = sorted(signing, key=lambda interval: interval[0])
    # A record counts for a switch until the key after its own is published.
    following = [row["made_at"] for _, _, row in intervals[2:]] + [math.inf]
    found = []
    for number, ((_, until, old), (at, _, new)) in enumerate(itertools.pairwise(intervals), start=1):
        ends, planned_s = old["verifies_until"], old["needed_s"]
        overlap_s = None if ends is None else ends - at
        replicas_s = needed_overlap(confirmations, new["made_at"], at, max(at, following[number - 1]))
        if now < at + max(planned_s, replicas_s, running_s):
            replicas_s = max(replicas_s, running_s)
        needed_s = max(planned_s, replicas_s)
        short = overlap_s is not None and overlap_s < needed_s
        found.append(
            {
                "number": number,
                "at": at,
                "from": old["kid"],
                "to": new["kid"],
                "published_ahead_s": at - new["made_at"],
                "gap_s": at - until,
                "old_ends": ends,
                "overlap_s": overlap_s,
                "needed_s": needed_s,
                "needed_by_replicas": needed_s > planned_s,
                "confirmation": summarize(confirmations, new["made_at"], at, planned_s),
                "verdict": "enough" if not short else "revoked" if ends == old["revoked_at"] else "too short",
            }
        )
    return found


def fallbacks(rows: list[dict[str, Any]], window: OverlapPolicy) -> Iterator[tuple[str, int, int]]:
    """Yield the keys that a signer goes back to after a revocation because its clock is behind, and that end too soon.

    Each with its end and with the expiry of the last such token.
    """
    for index, successor in enumerate(rows):
        revoked = []
        for row in reversed(rows[:index] if successor["revoked_at"] is None else []):
            if row["revoked_at"] is not None:
                revoked.append(row["revoked_at"])
                continue
            ends, needed = row["verifies_until"], successor["nbf"] + row["needed_s"]
            # The earliest that such a clock can show at the revocation: is the key in use then?
            late = max(revoked, default=math.inf) - window.leeway_s
            if ends is not None and late < min(successor["nbf"], ends) and ends < needed:
                yield row["kid"], ends, needed
            break

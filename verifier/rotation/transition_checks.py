"""Checks of the lines of the history against each other: a valid chain can record what no command does."""

import itertools
from collections.abc import Iterator, Mapping

from verifier.core.times import utc
from verifier.rotation.history import ABSENT, REMOVED, Event, merged_events
from verifier.rotation.inventory import Inventory
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.violation import Violations

Recorded = Mapping[str, Event]  # the last line of each key that is not removed, by kid


def transitions(inventory: Inventory) -> Violations:
    """Find changes of keys that no command makes, such as a revocation that is taken back."""
    numbered = [(n, line) for n, line in enumerate(inventory.history.lines, start=1) if isinstance(line, Event)]
    recorded: dict[str, Event] = {}
    revoked: set[str] = set()
    for _, lines in itertools.groupby(numbered, key=lambda line: (line[1].at, line[1].by, line[1].command)):
        batch, before = list(lines), dict(recorded)
        events = [event for _, event in batch]
        for number, event in batch:
            if event.kid in revoked and event.revoked_at is None and event.new != REMOVED:
                yield f"line {number} trusts {event.kid} again, which was revoked"
            for found in _impossible(event, before, events):
                yield f"line {number}: {event.kid} {found}"
            recorded[event.kid] = event
            if event.new == REMOVED:
                del recorded[event.kid]
            revoked |= {e.kid for e in merged_events([event]) if e.revoked_at is not None}


def _impossible(event: Event, before: Recorded, batch: list[Event]) -> Iterator[str]:
    """Yield what no command changes; `before` is what was recorded before the command, `batch` are its lines."""
    known = before.get(event.kid)
    if known is None or event.new == REMOVED or event.command == "merge":
        return  # a merge computes the dates of both branches again
    if event.old == ABSENT:
        yield "is published a second time"
    if None not in (known.iat, event.iat) and event.iat != known.iat:
        yield "has another iat than before"
    # A command may revoke once more, because a file had lost its revocation.
    if known.revoked_at is not None and event.revoked_at not in (None, known.revoked_at, event.at):
        yield f"is revoked as of {utc(event.revoked_at or 0)}, and was as of {utc(known.revoked_at)}"
    if event.nbf != known.nbf and (known.nbf or 0) <= event.at:
        yield "has another nbf, although it was active already"
    if event.exp == known.exp:
        return
    # One overlap from now, because an interrupted command that is completed later leaves that to tokens of meanwhile.
    later = event.exp is None or event.exp > event.at + _overlap_s(event)
    if later and not _may_sign(known, before, event.at):
        yield "has a later end, although it no longer signed"
    if event.command == "rotate":
        # Later than planned where an interrupted command was completed later.
        starts = [event.at + (event.lead_s or 0), *(e.nbf for e in batch if e.old == ABSENT and e.nbf is not None)]
        if event.exp is None or event.exp > max(starts) + _overlap_s(event):
            yield "has a later end than this rotation requires"


def _may_sign(known: Event, before: Recorded, now: int) -> bool:
    """Return whether no newer key signs, and this one has not ended."""
    live = [e for e in before.values() if e.revoked_at is None and (e.exp is None or e.exp > now)]
    newest = max((e.nbf or 0 for e in live if (e.nbf or 0) <= now), default=0)
    return known in live and (known.nbf or 0) >= newest


def _overlap_s(event: Event) -> int:
    if event.max_lifetime_s is None or event.leeway_s is None:  # of an older version
        return OverlapPolicy().overlap_s
    return OverlapPolicy(event.max_lifetime_s, event.leeway_s).overlap_s

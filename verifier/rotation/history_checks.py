"""Checks of the history: that commands wrote its lines, that it agrees with the files, and what git says about it."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from verifier.core.keyring import KeyState, PublicKey
from verifier.core.times import utc
from verifier.rotation.history import ABSENT, REMOVED, Event, first_events, merged_events, replay
from verifier.rotation.inventory import JOURNAL, Inventory
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.violation import Violations

CREATING = ("generate", "rotate", "import", "revoke")  # the commands that publish a key
MAX_CLOCK_DIFFERENCE_S = 60  # of the machine that wrote a line from the auditor's


def times(inventory: Inventory) -> Violations:
    """Find lines that are older than the one before, or in the future."""
    latest = 0
    for number, line in enumerate(inventory.history.lines, start=1):
        if line is not None:
            if line.at < latest:
                yield f"line {number} is of {utc(line.at)}, before the line above it ({utc(latest)})"
            if line.at > inventory.now + MAX_CLOCK_DIFFERENCE_S:
                yield f"line {number} is of {utc(line.at)}, in the future"
            latest = max(latest, line.at)


def transitions(inventory: Inventory) -> Violations:
    """Find changes of keys that no command makes, such as a revocation that is taken back, in a chain that is valid."""
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
            revoked |= {e.kid for e in merged_events([event]) if e.revokes}


def _impossible(event: Event, before: Mapping[str, Event], batch: list[Event]) -> Iterator[str]:
    """Yield what no command changes.

    `before` is the last line before the command of each key that was not removed, `batch` are the lines of the command.
    """
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
    overlap_s = (OverlapPolicy.recorded(event) or OverlapPolicy()).overlap_s
    # One overlap from now, because an interrupted command that is completed later leaves that to tokens of meanwhile.
    later = event.exp is None or event.exp > event.at + overlap_s
    revoked = {e.kid for e in batch if e.revokes}  # in the same step, so that an older key signs again
    if later and not _may_sign(known, {kid: e for kid, e in before.items() if kid not in revoked}, event.at):
        yield "has a later end, although it no longer signed"
    if event.command == "rotate":
        # Later than planned where an interrupted command was completed later.
        starts = [event.at + (event.lead_s or 0), *(e.nbf for e in batch if e.old == ABSENT and e.nbf is not None)]
        if event.exp is None or event.exp > max(starts) + overlap_s:
            yield "has a later end than this rotation requires"


def _may_sign(known: Event, before: Mapping[str, Event], now: int) -> bool:
    """Return whether no newer key signs, and this one has not ended."""
    live = [e for e in before.values() if not e.has_ended(now)]
    newest = max((e.nbf or 0 for e in live if (e.nbf or 0) <= now), default=0)
    return known in live and (known.nbf or 0) >= newest


def origins(inventory: Inventory) -> Violations:
    """Find keys that no command created, such as a file that was added by hand and recorded by a merge."""
    known: set[str] = set()
    for number, line in enumerate(inventory.history.lines, start=1):
        for kid, event in first_events([line] if isinstance(line, Event) else []).items():
            created = event.old == ABSENT and event.command in CREATING
            if kid not in known and not created and inventory.is_new(number):
                yield f"no command created {kid}: line {number} ({event.command} by {event.by}) is its first"
            known.add(kid)


def agrees(inventory: Inventory) -> Violations:
    """Find keys whose file and history differ in a date or a word."""
    events = inventory.history.events
    recorded, known = replay(events), _published(events)
    for kid in sorted(recorded.keys() | inventory.keyring.keys.keys()):
        key = inventory.keyring.find(kid)
        if key is None:
            yield f"{kid} is in the history and not in public/"
        elif kid not in recorded:
            yield f"{kid} is in public/ and not in the history"
        else:
            dates = {name: getattr(recorded[kid], name) for name in ("nbf", "exp", "revoked_at")}
            yield from _differences(key, dates | known.get(kid, {}))


def _published(events: tuple[Event, ...]) -> dict[str, dict[str, Any]]:
    """Return what the history records about each key apart from its dates: iat, and the reason of its revocation."""
    found: dict[str, dict[str, Any]] = {}
    for event in merged_events(events):
        row = found.setdefault(event.kid, {})
        if event.iat is not None:
            row["iat"] = event.iat
        elif event.old == ABSENT and event.command in CREATING:
            row["iat"] = event.at  # as every command of an older version set it
        if event.new == KeyState.REVOKED != event.old and event.command == "revoke":
            row["reason"] = event.reason
    return found


def _differences(key: PublicKey, expected: dict[str, Any]) -> Violations:
    for name in ("iat", "nbf", "exp", "revoked_at"):
        found = getattr(key, name)
        if name in expected and found != expected[name]:
            yield f"{key.kid}: {name} is {_date(found)} in the file, {_date(expected[name])} in the history"
    if key.revoked_at is not None and "reason" in expected and key.reason != expected["reason"]:
        yield f"{key.kid}: the reason is {key.reason!r} in the file, {expected['reason']!r} in the history"


def _date(instant: int | None) -> str:
    return "absent" if instant is None else utc(instant)


def unfinished(inventory: Inventory) -> Violations:
    """Find a command that was interrupted."""
    if any(file.name == f"private/{JOURNAL}" for file in inventory.files):
        yield "a command was interrupted; its change is written down and not carried out"


def uncommitted(inventory: Inventory) -> Violations:
    """Find changes that have not been reviewed as a commit."""
    if inventory.witness.uncommitted and not inventory.allow_uncommitted:
        yield f"changed since the last commit: {', '.join(inventory.witness.uncommitted)}"


def signatures(inventory: Inventory) -> Violations:
    """Find lines whose commit has a bad signature or, if required in the audit period, none."""
    if inventory.require_signed and not inventory.witness.present:
        yield "signatures are required, and the key directory is in no git repository"
    for number, commit in enumerate(inventory.witness.lines, start=1):
        required = inventory.require_signed and inventory.is_new(number)
        if commit is not None and commit.signature == "B":
            yield f"line {number} was added by commit {commit.id[:12]} with a bad signature"
        elif required and commit is None:
            yield f"line {number} is not committed"
        elif required and commit is not None and not commit.signed:
            yield f"line {number} was added by commit {commit.id[:12]}, which is {commit.signature_words}"

"""Checks of the history: that commands wrote its lines, that it agrees with the files, and what git says about it."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from verifier.core.applications import MAX_SECRETS
from verifier.core.keyring import KeyState, PublicKey, digest_of
from verifier.core.times import utc
from verifier.rotation.history import (
    ABSENT,
    REMOVED,
    Confirmation,
    Event,
    SecretEvent,
    first_events,
    merged_events,
    merged_in,
    replay,
)
from verifier.rotation.inventory import JOURNAL, Inventory
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.violation import Violation, Violations

CREATING = ("generate", "rotate", "import", "revoke")  # the commands that publish a key
_FIND = "find the line in version control"
_GIT_REMEDIES = {
    "is shallow": "fetch the other commits: git fetch --unshallow; in CI, check out with fetch-depth: 0",
    "is missing": "audit a clone that was made without --filter",
    "unable to read": "audit a clone that was made without --filter",
    "does not match its name": "audit a fresh clone; git fsck names every damaged object",
    "of this directory too": "audit a clone in which the key directory is a plain folder of one repository",
    "replaces the program": "remove the setting from the repository: git config --unset; audit a fresh clone",
}
MAX_CLOCK_DIFFERENCE_S = 60  # of the machine that wrote a line from the auditor's


def times(inventory: Inventory) -> Violations:
    """Find lines that are older than the one before, in the future, or newer than the commit that added them."""
    latest = 0
    for number, line in enumerate(inventory.history.lines, start=1):
        if line is not None:
            if line.at < latest:
                yield f"line {number} is of {utc(line.at)}, before the line above it ({utc(latest)})"
            if line.at > inventory.now + MAX_CLOCK_DIFFERENCE_S:
                yield f"line {number} is of {utc(line.at)}, in the future"
            latest = max(latest, line.at)
    lines = itertools.zip_longest(inventory.history.lines, inventory.witness.lines)
    for number, (line, commit) in enumerate(lines, start=1):
        if line is None or commit is None or not inventory.is_new(number):
            continue
        if line.at > commit.time + MAX_CLOCK_DIFFERENCE_S:
            yield f"line {number} is of {utc(line.at)}, after the commit {commit.id[:12]} that added it ({commit.at})"


def transitions(inventory: Inventory) -> Violations:
    """Find lines that no command writes, such as a revocation that is taken back, in a chain that is valid."""
    yield from _key_transitions(inventory)
    yield from _secret_transitions(inventory)
    yield from _false_confirmations(inventory)


def _key_transitions(inventory: Inventory) -> Violations:
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


def _secret_transitions(inventory: Inventory) -> Violations:
    """Find changes of secrets that no command makes; of an application from the line that adds its first secret on."""
    held: dict[str, list[str]] = {}
    for number, line in enumerate(inventory.history.lines, start=1):
        for event in merged_in([line]):
            if not isinstance(event, SecretEvent):
                continue
            if event is not line:  # of another branch, which had other slots
                held.pop(event.application, None)
                continue
            if event.command == "add" and event.slot == 1 and event.old == ABSENT:
                held.setdefault(event.application, [])
            if event.application in held:
                for found in _impossible_secret(event, held[event.application]):
                    secret = f"the secret {event.sha256}... of application {event.application}"
                    replace = f"verifier applications rotate-secret {event.application}"
                    yield Violation(f"line {number}: {secret} {found}", f"{_FIND}; replace the secret: {replace}")


def _impossible_secret(event: SecretEvent, held: list[str]) -> Iterator[str]:
    """Yield what no command changes, and apply the change to the secrets that the application holds, by slot."""
    if (event.old, event.new) == (ABSENT, "active"):
        if event.command not in ("add", "rotate-secret") or event.sha256 in held:
            yield f"is added by {event.command}{' a second time' if event.sha256 in held else ''}"
        elif event.slot != len(held) + 1 or event.slot > MAX_SECRETS:
            yield f"is added in slot {event.slot}, expected {len(held) + 1} of {MAX_SECRETS}"
        held.append(event.sha256)
    elif (event.command, event.old, event.new) == ("remove-secret", "active", REMOVED):
        if held[event.slot - 1 : event.slot] != [event.sha256]:
            yield f"is removed from slot {event.slot}, which does not have it"
        held[:] = [digest for digest in held if digest != event.sha256]
    else:
        yield f"goes from {event.old} to {event.new} by {event.command}"


def _false_confirmations(inventory: Inventory) -> Violations:
    """Find replicas that are recorded as confirmed with other keys than the history had then."""
    first = first_events(inventory.history.events)
    if inventory.keyring.keys.keys() - first.keys():
        return  # because the history began with keys that it does not record
    # Before the line that first records a key of an older history, the keys of the moment are not known either.
    later = {kid for kid, event in first.items() if event.old != ABSENT}
    events: list[Event] = []
    for number, line in enumerate(inventory.history.lines, start=1):
        if isinstance(line, Event):
            events.append(line)
            later.discard(line.kid)
        elif isinstance(line, Confirmation) and line.confirmed and not later and inventory.is_new(number):
            expected = digest_of((e.kid, e.nbf or 0, e.exp, e.revoked_at) for e in replay(events).values())
            if line.key_set_digest != expected:
                found = (
                    f"line {number} confirms that {line.replica} had the keys {line.key_set_digest[:12]}..., the "
                    f"history had {expected[:12]}... then"
                )
                yield Violation(found, "disregard the line; record what replicas have: verifier keys confirm --record")


def _impossible(event: Event, before: Mapping[str, Event], batch: list[Event]) -> Iterator[str]:
    """Yield what no command changes.

    `before` is the last line before the command of each key that was not removed, `batch` are the lines of the command.
    """
    known = before.get(event.kid)
    if known is None or event.command == "merge":
        return  # a merge computes the dates of both branches again
    if event.new == REMOVED:
        cancelled = event.command == "cancel" and (known.nbf or 0) > event.at
        if not (known.has_ended(event.at) or event.revokes or cancelled):
            yield f"is removed by {event.command}, although it verified"
        return
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


def git_problems(inventory: Inventory) -> Violations:
    """Find what git could not be queried for, with the command that repairs it where git itself does not say it."""
    for problem in inventory.witness.problems:
        remedies = (remedy for words, remedy in _GIT_REMEDIES.items() if words in problem)
        yield Violation(problem, next(remedies, ""))


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

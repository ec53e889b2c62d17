"""Checks of the history: its chain, its anchor, git as a witness, and that it agrees with the files."""

from typing import Any

from verifier.core.keyring import KeyState, PublicKey
from verifier.core.times import utc
from verifier.rotation.history import ABSENT, Event, merged_events, replay
from verifier.rotation.inventory import Inventory
from verifier.rotation.violation import Violation, Violations

MAX_CLOCK_DIFFERENCE_S = 60  # of the machine that wrote a line from the auditor's
_DATES = ("iat", "nbf", "exp", "revoked_at")


def chain(inventory: Inventory) -> Violations:
    """Find lines that were changed or removed."""
    yield from inventory.history.problems


def anchored(inventory: Inventory) -> Violations:
    """Find that the history does not continue from the anchor that the auditor kept."""
    if inventory.since_problem:
        yield inventory.since_problem


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
            expected = dict(recorded[kid]) | known.get(kid, {})
            yield from _differences(key, expected)


def _published(events: tuple[Event, ...]) -> dict[str, dict[str, Any]]:
    """Return what the history records about each key apart from its dates: iat, and the reason of its revocation."""
    found: dict[str, dict[str, Any]] = {}
    for event in merged_events(events):
        row = found.setdefault(event.kid, {})
        if event.iat is not None:
            row["iat"] = event.iat
        elif event.old == ABSENT and event.command in ("generate", "rotate", "import", "revoke"):
            row["iat"] = event.at  # as every command of an older version set it
        if event.new == KeyState.REVOKED != event.old and event.command == "revoke":
            row["reason"] = event.reason
    return found


def _differences(key: PublicKey, expected: dict[str, Any]) -> Violations:
    for name in _DATES:
        found = getattr(key, name)
        if name in expected and found != expected[name]:
            yield f"{key.kid}: {name} is {_date(found)} in the file, {_date(expected[name])} in the history"
    if key.revoked_at is not None and "reason" in expected and key.reason != expected["reason"]:
        yield f"{key.kid}: the reason is {key.reason!r} in the file, {expected['reason']!r} in the history"


def _date(instant: int | None) -> str:
    return "absent" if instant is None else utc(instant)


def unfinished(inventory: Inventory) -> Violations:
    """Find a command that was interrupted."""
    if inventory.unfinished:
        yield "a command was interrupted; its change is written down and not carried out"


def git_available(inventory: Inventory) -> Violations:
    """Find that git could not be queried."""
    yield from inventory.witness.problems


def rewritten(inventory: Inventory) -> Violations:
    """Find committed lines that are no longer in the history."""
    yield from inventory.witness.rewritten


def uncommitted(inventory: Inventory) -> Violations:
    """Find changes that have not been reviewed as a commit."""
    if inventory.witness.uncommitted and not inventory.allow_uncommitted:
        yield f"not as committed: {', '.join(inventory.witness.uncommitted)}"


def signatures(inventory: Inventory) -> Violations:
    """Find lines whose commit has a bad signature or, if required, none."""
    if inventory.require_signed and not inventory.witness.present:
        yield Violation("signatures are required, and the key directory is in no git repository")
    for number, commit in enumerate(inventory.witness.lines, start=1):
        if commit is not None and commit.signature == "B":
            yield f"line {number} was added by commit {commit.id[:12]} with a bad signature"
        elif inventory.require_signed and (commit is None or not commit.signed):
            by = "is not committed" if commit is None else f"was added by commit {commit.id[:12]}, which is not signed"
            state = f" by a key that is trusted here (%G? is {commit.signature})" if commit else ""
            yield f"line {number} {by}{state}"

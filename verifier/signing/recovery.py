"""What becomes of a command that was killed: its change is finished while it is still valid, and undone afterwards."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from verifier.core.keyring import Keyring, KeyState, PublicKey
from verifier.core.times import LEAD_S, utc
from verifier.errors import ConfigError, UnsafeOperationError
from verifier.rotation import history
from verifier.rotation.history import ABSENT, Event
from verifier.rotation.plan import PROPAGATION_S
from verifier.rotation.preconditions import last_time, restoring
from verifier.storage.journal import Applied, Directory, FileChange, Record, digest
from verifier.storage.key_directory import find_public_key

MAX_LEAD_S = 10**11  # any


@dataclass(frozen=True, slots=True)
class Recovery:
    """The outcome of an interrupted command."""

    finished: bool
    text: str  # for the person who runs the next command


def recover(directory: Directory, record: Record, *, now: int, leeway_s: int, undo: bool = False) -> Recovery:
    """Finish an interrupted command, or abandon it if it is no longer valid or `undo` is set.

    A revocation is always finished. Call it under the lock.

    Raises:
        UnsafeOperationError: the clock is behind the time at which the command was planned.
        ConfigError: a file that the command changes cannot be used.
    """
    what, note = f"the {record.command} of {utc(record.at)}", ""
    if directory.history_applied(record) is Applied.YES:
        # Every file was written before the history. What changed since is a later change, a revocation perhaps.
        record = replace(record, changes=())
    elif record.revokes:
        if _stale(directory, record, now):
            record, note = _revise_revocation(directory, record, now)
    else:
        if now < record.at:
            raise UnsafeOperationError(
                f"the clock ({utc(now)}) is behind an interrupted change: {what}",
                hint="correct the clock (NTP), then run the command again",
            )
        _require_usable(directory, record, what)
        if stale := "it was undone on request" if undo else _stale(directory, record, now):
            return _Abandon(directory, record, now, leeway_s).run(what, stale)
    directory.finish(record)
    return Recovery(True, f"finished {what}, which was interrupted{note}")


def _require_usable(directory: Directory, record: Record, what: str) -> None:
    """Refuse to finish or abandon a change while one of its files cannot be used: its end may have been moved."""
    for change in record.changes:
        public = change.path.startswith("public/") and directory.applied(change) is Applied.OTHER
        if public and _parse(change.path, directory.text(change.path)) is None:
            path = directory.folder / change.path
            raise ConfigError(
                f"{path}: cannot be used, and {what}, which was interrupted, changes it; nothing was changed",
                hint=f"repair {path} or restore it ({restoring(path)}), then run verifier keys recover",
            )


def _stale(directory: Directory, record: Record, now: int) -> str:
    """Return why a plan is no longer valid, or an empty string."""
    changed = [change.path for change in record.changes if directory.applied(change) is Applied.OTHER]
    if directory.history_applied(record) is Applied.OTHER:
        changed.append(directory.history.name)
    if changed:
        return f"{', '.join(changed)} changed meanwhile"
    if directory.others(record.changes) != record.others:
        return "other files of public/ changed meanwhile"
    if record.until is not None and now > record.until:
        return f"it was valid until {utc(record.until)}"
    return ""


def _parse(path: str, text: str | None) -> PublicKey | None:
    """Return the key of a public file; None if it has none."""
    if text is None or not path.startswith("public/"):
        return None
    return find_public_key(PurePosixPath(path).name, text.encode("utf-8", "surrogateescape"))


def render(members: Any) -> str:
    """Return the text of a public file."""
    return json.dumps(members, indent=2) + "\n"


def _with_lines(directory: Directory, record: Record, events: Collection[Event], now: int) -> Record:
    """Return the record with these events as its lines, continuing the history as it is now."""
    before, lines = directory.read_history(), b""
    if events and not history.load(before).problems:
        at = max(now, last_time(before))
        lines = history.append(before, [replace(event, at=at) for event in events])[len(before) :]
    return replace(record, lines=lines.decode(), history_before=digest(before))


def _revise_revocation(directory: Directory, record: Record, now: int) -> tuple[Record, str]:
    """Return what is left to be done where files changed meanwhile, and what to say about it.

    What others wrote is kept, except that a revoked key stays revoked.
    """
    changes = []
    for change in record.changes:
        text, wanted = directory.text(change.path), _parse(change.path, change.after)
        if directory.applied(change) is not Applied.OTHER:
            changes.append(change)
        elif wanted is not None and wanted.revoked_at is not None:
            found = _parse(change.path, text)
            members = dict(wanted.members if found is None else found.members)
            # Last, where every command writes it: git merges lines, and twice the same member is no file.
            after = render(members | {"revoked": members.get("revoked", wanted.members["revoked"])})
            changes.append(replace(change, before=text, after=after))
    record = replace(record, changes=tuple(changes))
    if directory.history_applied(record) is Applied.OTHER:
        record = _with_lines(directory, record, history.load(record.lines.encode()).events, now)
    repair = "; the history is not valid and has no line of it; repair it, then verifier keys merge"
    return record, f", on files that changed meanwhile{'' if record.lines else repair}"


class _Abandon:
    """Undo what was applied, except what is in effect: a key that may have signed stays, and ends late enough."""

    def __init__(self, directory: Directory, record: Record, now: int, leeway_s: int) -> None:
        self.directory, self.record, self.now, self.leeway_s = directory, record, now, leeway_s
        self.texts = {change.path: directory.text(change.path) for change in record.changes}
        found = [_parse(path, text) for path, text in self.texts.items()]
        self.keyring = Keyring(key for key in found if key is not None)

    def run(self, what: str, why: str) -> Recovery:
        """Write the target of every file; return what was done."""
        kept = self._kept()
        changes = []
        for change in self.record.changes:
            text, target = self.texts[change.path], self._target(change, kept)
            if change.kid in kept:
                changes.append(replace(change, before=None, after=target))
            elif text != target:
                changes.append(replace(change, before=text, after=target))
        # In the order in which a restored key is there before another one ends.
        changes.sort(key=lambda change: change.after is None)
        events = [event for change in changes for event in self._events(change, kept)]
        record = replace(
            self.record,
            at=self.now,
            until=self.now + LEAD_S - PROPAGATION_S,
            changes=tuple(changes),
            removals=(),
            whole=self.record.whole if kept else None,
            others=self.directory.others(changes),
        )
        record = _with_lines(self.directory, record, events, self.now)
        if events:
            # With a journal of its own: this change has a line in the history, too.
            self.directory.commit(record, lambda: None)
        else:
            self.directory.finish(record)
        if kept:
            return Recovery(
                True,
                f"{what} was interrupted halfway ({why}) and its key is in use ({', '.join(sorted(kept))}); "
                "finished it with a new end for the previous key",
            )
        moved = f"; {', '.join(sorted({e.kid for e in events}))} ends later than before" if events else ""
        return Recovery(False, f"abandoned {what}, which was interrupted: {why}; none of it remains{moved}")

    def _kept(self) -> set[str]:
        """Return the keys that the command published and that verify by now, or that another file may rely on."""
        new = {c.kid for c in self.record.changes if c.before is None and c.after is not None}
        changed = any(self.directory.applied(change) is Applied.OTHER for change in self.record.changes)
        leeway_s = MAX_LEAD_S if changed else self.leeway_s
        return {key.kid for key in self.keyring.verification_keys(self.now, leeway_s) if key.kid in new}

    def _target(self, change: FileChange, kept: set[str]) -> str | None:
        if self.directory.applied(change) is Applied.OTHER or change.kid in kept:
            return self.texts[change.path]
        before, after = _parse(change.path, change.before), _parse(change.path, change.after)
        if kept and after is not None and after.exp is not None and (before is None or before.exp != after.exp):
            end = self.now + LEAD_S + self.record.overlap_s
            return render({**after.members, "exp": max(after.exp, end)})
        current = self.keyring.current(self.now)
        if before is not None and before.exp is not None and current is not None and current.kid == before.kid:
            # It signed until now, and would end before its last token does.
            end = self.now + self.record.overlap_s
            return change.before if before.exp >= end else render({**before.members, "exp": end})
        return change.before

    def _events(self, change: FileChange, kept: set[str]) -> list[Event]:
        after = _parse(change.path, change.after)
        original = next(c.before for c in self.record.changes if c.path == change.path)
        if after is None or (change.after == original and change.kid not in kept):
            return []
        planned = [event for event in history.load(self.record.lines.encode()).events if event.kid == after.kid]
        known = self.keyring.find(after.kid)
        old = self.keyring.state(known, self.now) if known else KeyState.CURRENT
        ring = Keyring([*(k for k in self.keyring.keys.values() if k.kid != after.kid), after])
        return [
            replace(
                event,
                old=ABSENT if change.kid in kept else old,
                new=ring.state(after, self.now),
                reason=f"interrupted {utc(self.record.at)}",
                nbf=after.nbf,
                exp=after.exp,
                revoked_at=after.revoked_at,
            )
            for event in planned[:1]
        ]

"""A merge of two branches that both changed keys: one history, and one set of files that agrees with it.

The history of this branch is kept as it is; the other branch's lines are recorded, verbatim, in a line after it.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verifier.core.encoding import loads_object
from verifier.core.keyring import Keyring, PublicKey, parse_public_key
from verifier.errors import ConfigError, KeyFileError
from verifier.rotation import history
from verifier.rotation.events import make_event
from verifier.rotation.history import ABSENT, REMOVED, Event
from verifier.rotation.markers import has_conflict_markers, is_marker
from verifier.rotation.plan import KeyChange, OverlapPolicy
from verifier.storage.key_directory import find_public_key


@dataclass(frozen=True, slots=True)
class Branch:
    """The lines of a branch of the history since it left another one; those of the main one from the first on."""

    lines: tuple[bytes, ...]
    base: tuple[bytes, ...] = ()  # the lines before those, from the first on

    @property
    def content(self) -> bytes:
        """The lines as in a file."""
        return b"".join(line + b"\n" for line in self.lines)

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of these lines."""
        return history.load(self.content).events

    @property
    def history(self) -> tuple[Event, ...]:
        """The events from the first line of the base on."""
        return Branch((*self.base, *self.lines)).events


Branches = Sequence[Branch]  # the main one, which is this branch, and others; each base is of one before it


def read_branches(content: bytes) -> Branches:
    """Return the branches of a history with conflict markers, or with the lines of both sides one after the other.

    Raises:
        ConfigError: a line is not an event or continues none of the others: it was changed or removed.
    """
    lines = list(dict.fromkeys(line for line in content.splitlines() if line.strip() and not is_marker(line)))
    following: dict[str, list[bytes]] = {}
    for line in lines:
        if history.load(line).lines[0] is None:
            raise ConfigError(f"a line is not an event (found {line[:60]!r})", hint="restore it from version control")
        following.setdefault(loads_object(line)["previous"], []).append(line)
    branches = []
    starts = [Branch((line,)) for line in following.get("", [])]
    while starts:
        base, found = starts[0].base, [*starts.pop(0).lines]
        while continued := following.get(history.digest(found[-1])):
            starts += [Branch((line,), (*base, *found)) for line in continued[1:]]
            found.append(continued[0])
        branches.append(Branch(tuple(found), base))
    reached = {line for branch in branches for line in branch.lines}
    lost = [line for line in lines if line not in reached]
    if lost:
        raise ConfigError(
            f"a line continues none of the others (found {lost[0][:60]!r}): a line was changed or removed",
            hint="restore both branches' lines from version control",
        )
    return branches or [Branch(())]


def _sides(content: bytes) -> list[bytes]:
    """Return the two versions of a file with conflict markers; of another file, its content."""
    if not has_conflict_markers(content):
        return [content]
    sides, targets = (bytearray(), bytearray()), (0, 1)
    for line in content.splitlines(keepends=True):
        if is_marker(line):
            targets = {b"<": (0,), b"|": (), b"=": (1,), b">": (0, 1)}[line[:1]]  # type: ignore[assignment]
        else:
            for target in targets:
                sides[target].extend(line)
    return [bytes(side) for side in sides]


def resolve(files: Mapping[str, bytes | str], branches: Branches, now: int, window: OverlapPolicy) -> dict[str, Any]:
    """Return the members of every public key after the merge, by kid; None for one that a branch removed.

    A key that either branch revoked is revoked. Ends that differ are computed again from the keys that remain.

    Raises:
        KeyFileError: a file has no usable version.
    """
    members: dict[str, dict[str, Any] | None] = {}
    conflicting = set()
    for name, content in files.items():
        kid = name.removesuffix(".json")
        versions = [find_public_key(name, side) for side in _sides(content)] if isinstance(content, bytes) else []
        usable = [dict(key.members) for key in versions if key is not None]
        if not usable:
            raise KeyFileError(f"{name}: has no usable version", hint=f"repair public/{name}, then merge again")
        members[kid] = usable[0]
        revocations = [m["revoked"] for m in usable if "revoked" in m]
        if revocations:
            members[kid] = usable[0] | {"revoked": min(revocations, key=lambda revoked: revoked["revoked_at"])}
        if len({version.get("exp") for version in usable}) > 1:
            conflicting.add(kid)
    signing = signing_keys(branches, now)
    for branch in branches:
        for kid, last in history.replay(branch.history).items():
            held = members.get(kid)
            if held and _state(last, now) == "current" and held.get("exp") != last.exp:
                conflicting.add(kid)
    _apply_histories(members, branches, signing)
    _schedule(members, conflicting, signing, now, window)
    return members


def signing_keys(branches: Branches, now: int) -> set[str]:
    """Return the key that signs on each branch, by kid; none that a branch revoked."""
    histories = [branch.history for branch in branches]
    revoked = {event.kid for events in histories for event in events if event.revokes}
    found: set[str] = set()
    for events in histories:
        recorded = history.replay(events).values()
        live = [e for e in recorded if e.kid not in revoked and _state(e, now) == "current"]
        found |= {event.kid for event in sorted(live, key=lambda event: (event.nbf or 0, event.kid))[-1:]}
    return found


def _apply_histories(members: dict[str, Any], branches: Branches, signing: set[str]) -> None:
    """Keep every revocation, and remove what either branch removed unless it signs on another."""
    every = [branch.events for branch in branches]
    for event in itertools.chain(*every):
        found = members.get(event.kid)
        if found is not None and event.revoked_at is not None and "revoked" not in found:
            members[event.kid] = found | {"revoked": {"revoked_at": event.revoked_at, "reason": event.reason}}
    for events in every:
        kept = history.replay(events)
        for kid in {event.kid for event in events} - kept.keys() - signing:
            if members.get(kid) is not None and "revoked" not in members[kid]:
                members[kid] = None


def _schedule(
    members: dict[str, Any], conflicting: set[str], signing: set[str], now: int, window: OverlapPolicy
) -> None:
    """Give each key with a successor an end that its last token does not outlive.

    `signing` are the keys that signed on one of the branches until now.
    """
    live = [key for key in _ring(members).keys.values() if not key.has_ended(now) or key.kid in conflicting]
    live = [key for key in live if key.revoked_at is None]
    for number, key in enumerate(live):
        following = live[number + 1 : number + 2]
        if not following:
            if key.kid in conflicting:
                members[key.kid].pop("exp", None)
            continue
        since = max(following[0].nbf, now if key.kid in conflicting | signing else 0)
        needed = since + window.overlap_s
        if key.exp is None or key.exp < needed or key.kid in conflicting:
            members[key.kid]["exp"] = needed


def _ring(members: Mapping[str, Any]) -> Keyring:
    return Keyring(
        parse_public_key(f"{kid}.json", json.dumps(found).encode()) for kid, found in members.items() if found
    )


def events(branches: Branches, members: Mapping[str, Any], *, now: int) -> list[Event]:
    """Return the lines that record a merge: one for each key that it changed for this branch."""
    main, *others = branches
    recorded, ring, histories = history.replay(main.events), _ring(members), [branch.history for branch in branches]
    found: list[Event] = []
    touched = {event.kid for branch in others for event in branch.events}
    merged = tuple(line.decode() for branch in others for line in branch.lines)
    if merged and not touched:
        touched = set([*ring.keys][-1:])  # because a line of some key has to record their secrets and confirmations
    for kid in dict.fromkeys([*members, *sorted(touched)]):
        key, known = ring.find(kid), recorded.get(kid)
        if kid in touched or _dates(key) != _dates(known):
            old = ABSENT if known is None else _state(known, now)
            new = REMOVED if key is None else ring.state(key, now)
            previous_exp = _previous_exp(kid, histories)
            change = KeyChange(kid, key.members if key else None, old, new, _reason(others), previous_exp)
            # The first line contains those of the other branches.
            found.append(make_event(change, "merge", now=now, context={} if found else {"merged": merged}))
    return found


def _dates(found: PublicKey | Event | None) -> tuple[int | None, ...]:
    return (None, None, None) if found is None else (found.nbf, found.exp, found.revoked_at)


def _previous_exp(kid: str, histories: list[tuple[Event, ...]]) -> int | None:
    """Return the end that a key had on its branch before a successor was scheduled."""
    for events in histories:
        last = history.replay(events).get(kid)
        if last is not None:
            return history.previous_exp(events, kid, last.exp)
    return None


def _reason(others: Branches) -> str:
    heads = [f"{len(branch.lines)} line(s) ending in {history.digest(branch.lines[-1])[:12]}" for branch in others]
    return f"merged another branch: {', '.join(heads)}" if heads else "recorded after the history was repaired"


def _state(last: Event, now: int) -> str:
    if last.has_ended(now):
        return "expired" if last.revoked_at is None else "revoked"
    return "pending" if last.nbf is not None and last.nbf > now else "current"

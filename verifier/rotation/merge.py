"""A merge of two branches that both changed keys: one history, and one set of files that agrees with it.

The history of this branch is kept as it is; the other branch's lines are recorded, verbatim, in a line after it.
"""

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from verifier.core.encoding import loads_object
from verifier.core.keyring import Keyring, PublicKey, find_public_key, parse_public_key
from verifier.errors import ConfigError, KeyFileError
from verifier.rotation import history
from verifier.rotation.events import make_event
from verifier.rotation.history import ABSENT, REMOVED, Event
from verifier.rotation.markers import has_conflict_markers, is_marker
from verifier.rotation.plan import KeyChange, OverlapPolicy


@dataclass(frozen=True, slots=True)
class Branches:
    """The lines of this branch from the first to the last, and those of each other branch since it left this one."""

    main: tuple[bytes, ...]
    others: tuple[tuple[bytes, ...], ...]

    @property
    def lines(self) -> bytes:
        """The content of the history of this branch."""
        return b"".join(line + b"\n" for line in self.main)

    def histories(self) -> list[tuple[Event, ...]]:
        """Return the events of each branch from its first line on, those of this branch first."""
        found = [list(self.main)]
        for branch in self.others:
            parent = loads_object(branch[0])["previous"]
            line = next(f for f in found for line in f if history.digest(line) == parent) if parent else []
            digests = [history.digest(text) for text in line]
            found.append([*line[: digests.index(parent) + 1 if parent else 0], *branch])
        return [_events(lines) for lines in found]


def _events(lines: Iterable[bytes]) -> tuple[Event, ...]:
    return history.load(b"\n".join(lines)).events


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
    branches: list[tuple[bytes, ...]] = []
    starts = following.get("", [])[:]
    while starts:
        branch = [starts.pop(0)]
        while continued := following.get(history.digest(branch[-1])):
            branch.append(continued[0])
            starts += continued[1:]
        branches.append(tuple(branch))
    reached = {line for branch in branches for line in branch}
    lost = [line for line in lines if line not in reached]
    if lost:
        raise ConfigError(
            f"a line continues none of the others (found {lost[0][:60]!r}): a line was changed or removed",
            hint="restore both branches' lines from version control",
        )
    return Branches(branches[0] if branches else (), tuple(branches[1:]))


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
    for events in branches.histories():
        for kid, last in history.replay(events).items():
            held = members.get(kid)
            if held and _state(last, now) == "current" and held.get("exp") != last.exp:
                conflicting.add(kid)
    _apply_histories(members, branches, signing)
    _schedule(members, conflicting, signing, now, window)
    return members


def signing_keys(branches: Branches, now: int) -> set[str]:
    """Return the key that signs on each branch, by kid; none that a branch revoked."""
    histories = branches.histories()
    revoked = {event.kid for events in histories for event in events if event.revokes}
    found: set[str] = set()
    for events in histories:
        recorded = history.replay(events).values()
        live = [e for e in recorded if e.kid not in revoked and _state(e, now) == "current"]
        found |= {event.kid for event in sorted(live, key=lambda event: (event.nbf or 0, event.kid))[-1:]}
    return found


def _apply_histories(members: dict[str, Any], branches: Branches, signing: set[str]) -> None:
    """Keep every revocation, and remove what either branch removed unless it signs on another."""
    every = [_events(lines) for lines in (branches.main, *branches.others)]
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
    recorded = history.replay(_events(branches.main))
    ring, histories = _ring(members), branches.histories()
    found: list[Event] = []
    touched = {event.kid for branch in branches.others for event in _events(branch)}
    merged = tuple(line.decode() for branch in branches.others for line in branch)
    for kid in dict.fromkeys([*members, *sorted(touched)]):
        key, known = ring.find(kid), recorded.get(kid)
        if kid in touched or _dates(key) != _dates(known):
            old = ABSENT if known is None else _state(known, now)
            new = REMOVED if key is None else ring.state(key, now)
            previous_exp = _previous_exp(kid, histories)
            change = KeyChange(kid, key.members if key else None, old, new, _reason(branches), previous_exp)
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


def _reason(branches: Branches) -> str:
    if not branches.others:
        return "recorded after the history was repaired"
    heads = ", ".join(
        f"{len(branch)} line(s) ending in {history.digest(branch[-1])[:12]}" for branch in branches.others
    )
    return f"merged another branch: {heads}"


def _state(last: Event, now: int) -> str:
    if last.has_ended(now):
        return "expired" if last.revoked_at is None else "revoked"
    return "pending" if last.nbf is not None and last.nbf > now else "current"

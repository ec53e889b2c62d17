"""The audit log: one JSON line per transition, each with the digest of the line before it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from verifier.core.encoding import loads_object

ABSENT, REMOVED = "none", "gone"  # the states before a key is published and after its file is removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A key's transition by a command, with the dates it has afterwards. The clock's own are not written down."""

    at: int  # when, in seconds since 1970-01-01 UTC
    by: str  # operating system user
    command: str
    kid: str
    old: str  # state before
    new: str  # state after
    reason: str = ""
    nbf: int | None = None
    exp: int | None = None
    previous_exp: int | None = None
    revoked_at: int | None = None


_WORDS, _DATES = ("by", "command", "kid", "old", "new", "reason"), ("nbf", "exp", "previous_exp", "revoked_at")
_KINDS: dict[str, Any] = {"at": int} | dict.fromkeys(_WORDS, str) | dict.fromkeys(_DATES, int | None)


def append(log: bytes, events: Iterable[Event]) -> bytes:
    """The log with more lines."""
    lines = log.splitlines()
    for event in events:
        previous = _digest(lines[-1]) if lines else ""
        lines.append(json.dumps(asdict(event) | {"previous": previous}).encode())
    return b"".join(line + b"\n" for line in lines)


def read(log: bytes) -> tuple[list[Event], list[str]]:
    """The events of a log, and where its chain is broken, in words."""
    events, problems, previous = [], [], ""
    for number, line in enumerate(log.splitlines(), start=1):
        try:
            members = loads_object(line)
            chained = members.pop("previous")
            event = Event(**members)
            if not all(isinstance(getattr(event, name), kind) for name, kind in _KINDS.items()):
                raise ValueError
            if not all(0 <= (getattr(event, name) or 0) <= 10**11 for name in ("at", *_DATES)):
                raise ValueError
            events.append(event)
        except (ValueError, TypeError, KeyError):
            problems.append(f"line {number} is not an event")
        else:
            if chained != previous:
                problems.append(f"line {number} does not continue line {number - 1}: a line was changed or removed")
        previous = _digest(line)
    return events, problems


def replay(events: Iterable[Event]) -> Mapping[str, dict[str, Any]]:
    """What the log says each key's file holds now: nbf, exp, revoked_at by kid."""
    state: dict[str, dict[str, Any]] = {}
    for event in events:
        state[event.kid] = {"nbf": event.nbf, "exp": event.exp, "revoked_at": event.revoked_at}
        if event.new == REMOVED:
            del state[event.kid]
    return state


def previous_exp(events: Iterable[Event], kid: str, exp: int | None) -> int | None:
    """The end that a key had before its rotation was scheduled; where none was, `exp`, the one that it has."""
    scheduled = [e for e in events if e.kid == kid and e.old != ABSENT and e.command in ("rotate", "import")]
    return scheduled[-1].previous_exp if scheduled else exp


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()

"""The audit log: one JSON line per change, each with the digest of the line before it."""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from verifier.core.encoding import loads_object
from verifier.core.times import MAX_TIME

ABSENT, REMOVED = "none", "gone"  # the states before a key is published and after its file is removed
MAX_PROBLEMS = 20  # because a file in another encoding is wrong in every line


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A key's transition by a command, with the dates it has afterwards and the settings it was computed with.

    States that only the clock changes have no line. Older versions wrote lines without the members after `revoked_at`.
    """

    at: int  # when, in seconds since 1970-01-01 UTC
    by: str  # operating system account, from the environment
    command: str
    kid: str
    old: str  # state before
    new: str  # state after
    reason: str = ""
    nbf: int | None = None
    exp: int | None = None
    previous_exp: int | None = None
    revoked_at: int | None = None
    iat: int | None = None
    alg: str = ""
    max_lifetime_s: int | None = None
    leeway_s: int | None = None
    lead_s: int | None = None
    force: bool | None = None
    version: str = ""  # of the program
    origin: str = ""  # of an imported key: SHA-256 of the file
    note: str = ""  # of an imported key: where it comes from
    merged: tuple[str, ...] = ()  # lines of another branch since it left this one, verbatim

    @property
    def revokes(self) -> bool:
        """Whether the key must never be trusted again; also one that was revoked while its file was missing."""
        return self.revoked_at is not None or (self.command == "revoke" and self.new == REMOVED)

    def has_ended(self, now: int) -> bool:
        """Return whether the key has expired or is revoked."""
        return self.revoked_at is not None or (self.exp is not None and self.exp <= now)


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretEvent:
    """A change of an application's secrets by a command."""

    at: int
    by: str
    command: str
    application: str
    slot: int  # 1 or 2, as `applications list` shows it
    sha256: str  # the first 12 hex digits of the digest
    old: str  # "none" or "active"
    new: str  # "active" or "gone"
    weakness: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What one replica reported to `keys confirm --record`."""

    at: int
    by: str
    command: str
    replica: str  # its URL
    key_set_digest: str  # that it has loaded; "" without a response
    confirmed: bool  # the same keys as here, ready, with a right clock and settings; in older lines the keys alone
    clock_offset_s: int | None = None  # of its clock from the one here
    max_lifetime_s: int | None = None
    leeway_s: int | None = None
    replica_version: str = ""
    problem: str = ""  # why it is not confirmed
    version: str = ""


Line = Event | SecretEvent | Confirmation

_ALWAYS = {"reason", "nbf", "exp", "previous_exp", "revoked_at"}  # written even where they have their default
_SIGNED = {"clock_offset_s"}


@dataclass(frozen=True, slots=True)
class Anchor:
    """One line of text that fixes everything before it: how many lines there are, and the digest of the last one."""

    lines: int
    digest: str

    @classmethod
    def of(cls, log: bytes) -> "Anchor":
        """Return the anchor of a log."""
        lines = log.splitlines()
        return cls(len(lines), digest(lines[-1] if lines else b""))

    @classmethod
    def parse(cls, text: str) -> "Anchor":
        """Parse `N:DIGEST`.

        Raises:
            ValueError: it is not a number and 64 hexadecimal digits.
        """
        match = re.fullmatch(r"([0-9]{1,9}):([0-9a-fA-F]{64})", text.strip())
        if match is None:
            expected = "expected N:DIGEST, a number of lines and 64 hexadecimal digits, as the audit prints it"
            raise ValueError(f"{expected} (found {text[:80]!r})")
        return cls(int(match[1]), match[2].lower())

    def __str__(self) -> str:
        return f"{self.lines}:{self.digest}"

    def broken_by(self, log: bytes) -> str:
        """Return why a log does not continue from this anchor, or "" if it does."""
        lines = log.splitlines()
        if len(lines) < self.lines:
            return f"the history has {len(lines)} lines, the anchor {self.lines}: lines were removed"
        found = digest(lines[self.lines - 1] if self.lines else b"")
        if hmac.compare_digest(found, self.digest):
            return ""
        return f"line {self.lines} has digest {found}, the anchor {self.digest}: the history was rewritten"


@dataclass(frozen=True, slots=True)
class History:
    """A parsed log."""

    lines: tuple[Line | None, ...]  # None: not an event
    problems: tuple[str, ...]  # where the chain is broken

    @property
    def events(self) -> tuple[Event, ...]:
        """The transitions of keys."""
        return tuple(line for line in self.lines if isinstance(line, Event))

    @property
    def secrets(self) -> tuple[SecretEvent, ...]:
        """The changes of secrets, also on branches that were merged."""
        return tuple(line for line in merged_in(self.lines) if isinstance(line, SecretEvent))

    @property
    def confirmations(self) -> tuple[Confirmation, ...]:
        """What replicas reported, also on branches that were merged."""
        return tuple(line for line in merged_in(self.lines) if isinstance(line, Confirmation))


def append(log: bytes, events: Iterable[Line]) -> bytes:
    """Return the log with more lines; what it has stays as it is, also with the line ends of Windows."""
    before = log.splitlines()
    previous = digest(before[-1]) if before else ""
    lines = [] if not log or log.endswith(b"\n") else [b""]
    for event in events:
        defaults = {field.name: field.default for field in fields(event)}
        members = {n: v for n, v in asdict(event).items() if n in _ALWAYS or v != defaults[n]}
        lines.append(json.dumps(members | {"previous": previous}).encode())
        previous = digest(lines[-1])
    return log + b"".join(line + b"\n" for line in lines)


def load(log: bytes) -> History:
    """Parse a log; invalid lines are problems."""
    found: list[Line | None] = []
    problems, previous = [], ""
    for number, line in enumerate(log.splitlines(), start=1):
        try:
            members = loads_object(line)
            chained = members.pop("previous")
            found.append(_parse(members))
        except (ValueError, TypeError, KeyError):
            found.append(None)
            problems.append(f"line {number} is not an event")
        else:
            if chained != previous:
                problems.append(f"line {number} does not continue line {number - 1}: a line was changed or removed")
        previous = digest(line)
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"{len(problems) - MAX_PROBLEMS} more lines are not events or do not continue"]
    return History(tuple(found), tuple(problems))


def _parse(members: dict[str, Any]) -> Line:
    kind = Confirmation if "replica" in members else SecretEvent if "application" in members else Event
    if isinstance(members.get("merged"), list):
        members["merged"] = tuple(members["merged"])
    line = kind(**members)
    for field in fields(line):
        value = getattr(line, field.name)
        expected: Any = tuple if field.name == "merged" else field.type  # because isinstance takes no tuple[str, ...]
        if not isinstance(value, expected) or (isinstance(value, bool) and "bool" not in str(expected)):
            raise ValueError(field.name)
        if isinstance(value, int) and not (-MAX_TIME if field.name in _SIGNED else 0) <= value <= MAX_TIME:
            raise ValueError(field.name)
    if isinstance(line, Event) and not all(isinstance(text, str) for text in line.merged):
        raise ValueError("merged")
    return line


def merged_in(lines: Iterable[Line | None]) -> Iterator[Line]:
    """Yield each line after those that it merged, which another branch wrote."""
    for line in lines:
        for text in line.merged if isinstance(line, Event) else ():
            yield from merged_in(load(text.encode()).lines)
        if line is not None:
            yield line


def merged_events(events: Iterable[Event]) -> Iterator[Event]:
    """Yield each event after those of the lines that it merged."""
    return (line for line in merged_in(events) if isinstance(line, Event))


def first_events(events: Iterable[Event]) -> dict[str, Event]:
    """Return the event that first records each key, by kid; with those that were merged."""
    found: dict[str, Event] = {}
    for event in merged_events(events):
        found.setdefault(event.kid, event)
    return found


def imported(events: Iterable[Event]) -> set[str]:
    """Return the keys that were made elsewhere: their private keys are not expected here."""
    return {kid for kid, event in first_events(events).items() if event.command == "import"}


def replay(events: Iterable[Event]) -> Mapping[str, Event]:
    """Return the last event of each key that was not removed, by kid; the dates are those of its file."""
    last = {event.kid: event for event in events}
    return {kid: event for kid, event in last.items() if event.new != REMOVED}


def ended(events: Iterable[Event], now: int) -> set[str]:
    """Return the keys that the log records as removed, revoked or expired."""
    events = list(events)
    return {event.kid for event in events} - {kid for kid, last in replay(events).items() if not last.has_ended(now)}


def previous_exp(events: Iterable[Event], kid: str, exp: int | None) -> int | None:
    """Return the end that a key had before its rotation was scheduled; where none was, `exp`, the one that it has."""
    scheduled = [
        e
        for e in events
        if e.kid == kid and (e.command == "merge" or (e.old != ABSENT and e.command in ("rotate", "import")))
    ]
    return scheduled[-1].previous_exp if scheduled else exp


def digest(line: bytes) -> str:
    """Return the digest that the next line refers to."""
    return hashlib.sha256(line).hexdigest()

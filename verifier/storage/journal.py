"""The journal of a change of several files: written first, so that a killed command can be finished or undone."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from verifier.errors import UnsafeOperationError
from verifier.storage import atomic
from verifier.storage.snapshot import read_file

MAX_JOURNAL_BYTES = 64 * 2**20
MAX_HISTORY_BYTES = 16 * 2**20  # 30,000 changes


class Applied(Enum):
    """How far a change of one file has come."""

    NO = "before"
    YES = "after"
    OTHER = "changed by something else since"


@dataclass(frozen=True, slots=True)
class FileChange:
    """The text of one file before and after a command; None where there is no file."""

    path: str  # relative to the key directory: the journal may be on another volume
    before: str | None
    after: str | None
    mode: int = 0o644

    @property
    def kid(self) -> str:
        """Return the key ID that the name of a public or private file is."""
        return PurePath(self.path).stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything that one command changes, and until when the change may still be made."""

    command: str
    at: int  # when it was planned
    until: int | None  # last second at which it may be finished; None: always
    revokes: bool
    overlap_s: int
    changes: tuple[FileChange, ...]  # in the order in which they are safe
    removals: tuple[str, ...]  # private keys, last, because they cannot be restored
    history_before: str  # digest of the history that the lines continue
    lines: str  # what is appended to the history
    whole: str | None = None  # of a merge: the history that replaces the present one
    others: str  # digest of the public files that the command does not change


def digest(data: bytes) -> str:
    """Return the SHA-256 of a content in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read(path: Path) -> Record | None:
    """Read the journal of an interrupted command; None if there is none.

    Raises:
        UnsafeOperationError: there is a file that is not a journal.
    """
    try:
        members: dict[str, Any] = json.loads(read_file(path, MAX_JOURNAL_BYTES))
        members["changes"] = tuple(FileChange(**change) for change in members["changes"])
        members["removals"] = tuple(members["removals"])
        return Record(**members)
    except (OSError, ValueError, TypeError, KeyError) as exc:
        if isinstance(exc, FileNotFoundError) and not path.is_symlink():
            return None
        cause = getattr(exc, "strerror", None) or "is not a journal"
        raise UnsafeOperationError(
            f"{path}: {cause}; an interrupted change cannot be finished",
            hint=f"compare keys/public and the history with version control, then remove {path}",
        ) from exc


def _fingerprint(path: Path) -> str:
    try:
        return digest(read_file(path, MAX_HISTORY_BYTES))
    except OSError as exc:  # because a revocation proceeds beside a file that cannot be read
        return str(exc.strerror)


class Directory:
    """The files of a key directory as a journal changes them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.history = folder, folder / "history.jsonl"
        self.journal = folder / "private" / ".commit.json"

    def text(self, path: str) -> str | None:
        """Return the current text of a file; None if it does not exist."""
        try:
            return read_file(self.folder / path, MAX_HISTORY_BYTES).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None

    def applied(self, change: FileChange) -> Applied:
        """Return how far the change of a file has come."""
        text = self.text(change.path)
        return Applied.YES if text == change.after else Applied.NO if text == change.before else Applied.OTHER

    def history_applied(self, record: Record) -> Applied:
        """Return whether the lines of a record are in the history."""
        content, lines = self.read_history(), record.lines.encode()
        if record.whole is not None and content == record.whole.encode():
            return Applied.YES
        if digest(content) == record.history_before:
            return Applied.NO
        # The lines have the digest of the line before, so that no other command writes the same.
        return Applied.YES if lines and lines in content else Applied.OTHER

    def read_history(self) -> bytes:
        """Return the history; empty before the first command.

        Raises:
            OSError: it cannot be read, or is a link to a folder that does not exist: a volume is not mounted.
        """
        try:
            return read_file(self.history, MAX_HISTORY_BYTES)
        except FileNotFoundError as exc:
            if not atomic.target(self.history).parent.is_dir():
                raise OSError(exc.errno, "its link leads to no folder", str(self.history)) from exc
            return b""

    def others(self, changes: Iterable[FileChange]) -> str:
        """Return the digest of every public file that is not among the changes."""
        changed = {self.folder / change.path for change in changes}
        paths = sorted((self.folder / "public").glob("[!.]*.json"))
        return digest(json.dumps([(path.name, _fingerprint(path)) for path in paths if path not in changed]).encode())

    def commit(self, record: Record, check: Callable[[], None]) -> None:
        """Write a journal and apply it; `check` raises when the plan is no longer valid.

        Everything is staged first: a disk that is full is noticed while nothing has changed.
        """
        try:
            self._stage(record)
            atomic.stage(self.journal, json.dumps(asdict(record)).encode(), 0o600)
            check()
            atomic.publish(self.journal)
        except BaseException:
            for change in record.changes:
                atomic.unstage(self.folder / change.path)
            self.clean()
            raise
        self._apply(record, check)

    def finish(self, record: Record) -> None:
        """Apply what is left of a journal."""
        self._stage(record)
        self._apply(record, lambda: None)

    def _stage(self, record: Record) -> None:
        for change in record.changes:
            if change.after is not None and self.applied(change) is not Applied.YES:
                content = change.after.encode("utf-8", "surrogateescape")
                atomic.stage(self.folder / change.path, content, change.mode)
        if self._history_is_due(record):
            whole = self.read_history() + record.lines.encode() if record.whole is None else record.whole.encode()
            atomic.stage(self.history, whole)

    def _history_is_due(self, record: Record) -> bool:
        return bool(record.lines or record.whole) and self.history_applied(record) is not Applied.YES

    def _apply(self, record: Record, check: Callable[[], None]) -> None:
        for change in record.changes:
            check()
            path = self.folder / change.path
            if change.after is None:
                atomic.remove(path)
            elif self.applied(change) is Applied.YES:
                atomic.unstage(path)
            else:
                atomic.publish(path)
        check()
        if self._history_is_due(record):
            atomic.publish(self.history)
        else:
            atomic.unstage(self.history)
        for name in record.removals:
            atomic.remove(self.folder / name)
        atomic.remove(self.journal)

    def clean(self) -> None:
        """Remove staged content of a command that was killed before its journal existed."""
        atomic.unstage(self.history)
        atomic.unstage(self.journal)
        for path in (*self.folder.glob("public/.*.json.tmp"), *self.folder.glob("private/.*.pem.tmp")):
            path.unlink(missing_ok=True)

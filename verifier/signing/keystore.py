"""The key directory with its private keys: changes under a lock, completely or not at all."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from verifier.core import jwk
from verifier.core.keyring import Keyring, KeyState, parse_public_key
from verifier.core.times import LEAD_S, utc
from verifier.errors import ConfigError, KeyFileError, UnsafeOperationError
from verifier.rotation import history
from verifier.rotation.events import make_event
from verifier.rotation.history import Confirmation, Event, Line, SecretEvent
from verifier.rotation.plan import PROPAGATION_S, KeyChange, OverlapPolicy, Plan, Planner, valid_until
from verifier.signing import recovery
from verifier.signing.private_key import generate
from verifier.storage import atomic, journal
from verifier.storage.journal import FileChange, Record
from verifier.storage.key_directory import KeyDirectory

MAX_PLANNING_S = 30  # from reading the clock to the last write; a process that takes longer was suspended
_WINDOW = OverlapPolicy()
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST, errno.ENOENT})


class Keystore:
    """A key directory with its private keys: `public/<kid>.json` and `private/<kid>.pem`."""

    def __init__(self, folder: Path, clock: Callable[[], float] | None = None) -> None:
        self.folder = folder
        self.public = KeyDirectory(folder / "public")
        self.private = folder / "private"
        self._files = journal.Directory(folder)
        self.history, self.journal = self._files.history, self._files.journal
        self.now = 0  # when the transaction began
        self._skew = 0  # of `now` from the clock
        self.notes: list[str] = []  # what the transaction found: an interrupted change, and its outcome
        self._clock = clock or time.time

    @contextmanager
    def transaction(self, *, revoking: bool = False, undo: bool = False) -> Iterator[Keyring]:
        """Lock the directory, finish or abandon an interrupted change, and yield the keyring.

        What became of the interrupted change is in `notes`; `undo` abandons it if that is still possible.
        A revocation (`revoking`) proceeds beside a journal that cannot be used, and replaces it.

        Raises:
            UnsafeOperationError: another process holds the lock, or the journal cannot be used.
        """
        self._make_folders()
        with atomic.locked(self.private / ".lock"), self._history_lock():
            # Inside the lock, because waiting for it takes up to 10 s.
            self.now, self._skew, self.notes = int(self._clock()), 0, []
            self._clean()
            self._recover(revoking, undo)
            self.public.refresh(full=True)
            yield self.public.keyring

    def _clean(self) -> None:
        try:
            self._files.clean()
        except OSError as exc:  # a folder, or of another owner
            text = f"{exc.filename}: cannot be replaced ({exc.strerror}); nothing was changed"
            raise ConfigError(text, f"remove {exc.filename}, then run the command again") from exc

    def _recover(self, revoking: bool, undo: bool) -> None:
        try:
            record = journal.read(self.journal)
        except UnsafeOperationError as exc:
            if not revoking:
                raise
            self.notes.append(f"{exc}; it is replaced")
            if not self.journal.is_file():  # in a folder of its own, because a name may be taken by another kind
                self.journal.replace(Path(mkdtemp(dir=self.private, prefix=".unusable.")) / self.journal.name)
            return
        if record is not None:
            now = max(self.now, record.at) if revoking else self.now
            try:
                outcome = recovery.recover(self._files, record, now=now, leeway_s=_WINDOW.leeway_s, undo=undo)
                self.notes.append(outcome.text)
            except (ConfigError, OSError) as exc:
                if revoking:
                    self.notes.append(_cause(exc))
                elif isinstance(exc, OSError):
                    raise self._incomplete(_cause(exc), record) from exc
                else:
                    raise

    def assume(self, now: int) -> None:
        """Replace the time of this transaction: the clock is known to be behind."""
        self.now, self._skew = now, now - int(self._clock())

    def _make_folders(self) -> None:
        ignore = self.private / ".gitignore"
        try:
            # Modes are explicit, because the server reads public/ as another user and the umask may forbid it.
            atomic.make_folder(self.public.folder, 0o755)
            atomic.make_folder(self.private, 0o700)
            if not self.private.is_symlink():  # because a link may lead to a folder that is not only for keys
                self.private.chmod(0o700)
            if ignore.is_symlink() or not ignore.exists():  # git does not follow a link
                ignore.unlink(missing_ok=True)
                atomic.write_atomic(ignore, b"# private keys are never committed\n*\n")
        except OSError as exc:
            hint = "remove the cause, then run the command again"
            if exc.errno in _NOT_A_FOLDER:
                hint = f"{self.public.folder} and {self.private} must be folders, or links to folders"
            raise ConfigError(f"{exc.filename}: {exc.strerror}; nothing was changed", hint) from exc

    def _history_lock(self) -> AbstractContextManager[None]:
        """Return the lock of the directory that a linked history belongs to."""
        if not self.history.is_symlink():
            return nullcontext()
        target = atomic.target(self.history)
        private = target.parent / "private"
        lock = private / ".lock" if private.is_dir() else target.parent / f".{target.name}.lock"
        # Without its folder, or if it is no file, nothing can be written there, and reading reports it.
        writable = target.is_file() or (target.parent.is_dir() and not os.path.lexists(target))
        if not writable or lock.resolve() == (self.private / ".lock").resolve():
            return nullcontext()
        return atomic.locked(lock)

    def planner(self, window: OverlapPolicy = _WINDOW, force: bool = False) -> Planner:
        """Return what plans a change of this directory; call it within `transaction`."""
        return Planner(self.public.keyring, self.now, window, force, self.signable(), self.previous_exp)

    def generate_pair(self, alg: str) -> tuple[dict[str, str], str]:
        """Generate a key pair without storing it: the public JWK, and the private key as PKCS#8 PEM."""
        key = generate(alg)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return jwk.dump(key.public_key()), pem.decode()

    def apply(
        self,
        plan: Plan,
        command: str,
        *,
        now: int,
        pem: str | None = None,
        window: OverlapPolicy = _WINDOW,
        context: Mapping[str, Any] | None = None,
    ) -> list[Event]:
        """Carry out a plan completely or not at all, append it to the history, and return its events.

        `pem` is the private key of the plan's first key (0600 in a 0700 folder, never over another file).
        Call it within `transaction`. Removing a private key unlinks the file; what the disk keeps of it is beyond it.

        Raises:
            KeyFileError: the private key or a public file could not be read afterwards.
            UnsafeOperationError: the clock moved since the transaction began.
        """
        changes: list[FileChange] = []
        removals, events = [], []
        if pem is not None:
            path = self.private / f"{plan[0].kid}.pem"
            if path.exists() or path.is_symlink():
                raise KeyFileError(f"{path}: exists already; it is never overwritten", hint=f"move {path} elsewhere")
            changes.append(FileChange(f"private/{path.name}", None, pem, 0o600))
        for step in plan:
            private = self.private / f"{step.kid}.pem"
            drops = step.drop_private and private.exists() and not private.is_dir()  # a folder holds no key
            if drops:
                removals.append(f"private/{step.kid}.pem")
                step = replace(step, reason=step.reason or "private key deleted")
            before = self.public.keyring.find(step.kid)
            if step.members != (before.members if before else None):
                changes.append(self._public_change(step.kid, step.members))
            elif not drops and step.members is not None:
                continue
            alg = before.algorithm.name if before else ""
            events.append(make_event(step, command, now=now, context=context, alg=alg))
        if events:
            revokes = any(event.revokes and event.old != KeyState.REVOKED for event in events)
            until = None if revokes else valid_until(plan, self.public.keyring, now)
            self._commit(command, now, events, changes, removals, until=until, revokes=revokes, window=window)
        return events

    def _public_change(self, kid: str, members: Mapping[str, Any] | None) -> FileChange:
        path = f"public/{kid}.json"
        after = None if members is None else recovery.render(dict(members))
        if after is not None:
            parse_public_key(f"{kid}.json", after.encode())  # because nothing is written that no server would read
        return FileChange(path, self._files.text(path), after)

    def _commit(
        self,
        command: str,
        now: int,
        events: Sequence[Line],
        changes: Sequence[FileChange] = (),
        removals: Sequence[str] = (),
        *,
        until: int | None = None,
        revokes: bool = False,
        window: OverlapPolicy = _WINDOW,
        whole: str | None = None,
    ) -> None:
        content, lines = self._append(events, revokes) if whole is None else (self.read_history(), b"")
        record = Record(
            command=command,
            at=now,
            until=until,
            revokes=revokes,
            overlap_s=window.overlap_s,
            changes=tuple(changes),
            removals=tuple(removals),
            history_before=journal.digest(content),
            lines=lines.decode(),
            whole=whole,
            others=self._files.others(changes),
        )
        try:
            self._files.commit(record, lambda: None if revokes else self._check_clock())
        except (OSError, UnsafeOperationError) as exc:
            raise self._failure(exc, record, window) from exc
        self.public.refresh(full=True)
        if not revokes:
            self._extend_late_ends(record, events, window)

    def _append(self, events: Sequence[Line], revokes: bool) -> tuple[bytes, bytes]:
        """Return the history and the lines to append: none to a history that is damaged, which a revocation skips."""
        try:
            content = self.read_history()
            damaged = bool(history.load(content).problems)
        except ConfigError:
            if not revokes:
                raise
            content, damaged = b"", True
        if revokes and damaged:
            self.notes.append(f"{self.history} is damaged and has no line of this; repair it, then verifier keys merge")
            return content, b""
        return content, history.append(content, events)[len(content) :]

    def record(self, path: Path, content: bytes, mode: int, lines: list[SecretEvent], command: str) -> None:
        """Replace a file outside the key directory together with its lines in the history.

        Call it within `transaction(revoking=True)`.
        """
        file = str(path.absolute())
        change = FileChange(file, self._files.text(file), content.decode(), mode)
        self._commit(command, self.now, lines, [change], revokes=True)

    def confirm(self, lines: list[Confirmation]) -> None:
        """Append what replicas reported to the history; call it within `transaction`."""
        self._commit("confirm", self.now, lines)

    def merge(self, changes: list[FileChange], events: list[Event], lines: bytes, *, now: int) -> None:
        """Replace a history with two branches by one that continues `lines`; call it within `transaction`."""
        whole = history.append(lines, events).decode()
        self._commit("merge", now, events, changes, until=now + PROPAGATION_S, whole=whole)

    def _extend_late_ends(self, record: Record, events: Sequence[Line], window: OverlapPolicy) -> None:
        """Move the ends that the command set if the process was suspended during its last write."""
        now = int(self._clock()) + self._skew
        if now <= self.now + MAX_PLANNING_S:
            return
        ended = {event.kid for event in events if isinstance(event, Event) and event.exp is not None}
        end = now + LEAD_S + window.overlap_s
        plan = []
        for key in self.public.keyring.keys.values():
            if key.kid in ended and key.exp is not None and key.exp < end:
                state = str(self.public.keyring.state(key, now))
                plan.append(KeyChange(key.kid, {**key.members, "exp": end}, state, state, "the process was suspended"))
        self.now = now
        self.apply(plan, record.command, now=now, window=window)

    def _check_clock(self) -> None:
        moved = int(self._clock()) + self._skew - self.now
        if not 0 <= moved <= MAX_PLANNING_S:
            raise UnsafeOperationError(
                f"the clock moved by {moved} s while the command ran (expected 0 to {MAX_PLANNING_S} s)",
                hint="the process was suspended or the clock was set: run the command again",
            )

    def _failure(self, exc: Exception, record: Record, window: OverlapPolicy) -> ConfigError:
        """Undo a change that failed on the way; return an error that says what became of it."""
        cause, hint = _cause(exc), getattr(exc, "hint", "") or "remove the cause, then run the command again"
        kind = UnsafeOperationError if isinstance(exc, UnsafeOperationError) else ConfigError
        try:
            left = journal.read(self.journal)
            if left is None:
                return kind(f"{cause}; nothing was changed", hint)
            if not record.revokes:
                now = int(self._clock()) + self._skew
                outcome = recovery.recover(self._files, left, now=now, leeway_s=window.leeway_s, undo=True)
                self._files.clean()  # because undoing does not publish what was staged
                done = outcome.text if outcome.finished else "nothing was changed"
                return kind(f"{cause}; {done}", hint)
        except (OSError, UnsafeOperationError):
            pass
        return self._incomplete(cause, record, kind)

    def _incomplete(self, cause: str, record: Record, kind: type[ConfigError] = ConfigError) -> ConfigError:
        until = "" if record.until is None else f" until {utc(record.until)} (after that, it is abandoned)"
        undo = "" if record.revokes else "; to undo it now: verifier keys recover --undo"
        return kind(
            f"{cause}; the {record.command} is recorded in {self.journal} and is not complete",
            f"remove the cause, then run verifier keys recover: it finishes the {record.command}{until}{undo}",
        )

    def read_history(self) -> bytes:
        """Return the history; empty before the first command."""
        try:
            return self._files.read_history()
        except OSError as exc:
            raise ConfigError(
                f"{self.history}: cannot be read ({exc.strerror})", hint="restore the file from version control"
            ) from exc

    def previous_exp(self, kid: str) -> int | None:
        """Return the end that a key had before its rotation was scheduled, according to the history."""
        key = self.public.keyring.find(kid)
        try:
            log = history.load(self.read_history())
        except ConfigError:
            return None
        if log.problems:  # during a revocation: a key without an end rejects no one
            return None
        return history.previous_exp(log.events, kid, key.exp if key else None)

    def signable(self) -> frozenset[str] | None:
        """Return the kids whose private keys are here; None where there are none: signing happens elsewhere."""
        return frozenset(path.stem for path in self.private.glob("*.pem") if path.is_file()) or None


def _cause(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return f"{exc.filename or 'a file'}: cannot be written ({exc.strerror or type(exc).__name__})"
    return str(exc)

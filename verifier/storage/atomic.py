"""Files that other processes change meanwhile: consistent reads, atomic writes, one writer at a time."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from verifier.errors import UnsafeOperationError

LOCK_ATTEMPTS, LOCK_PAUSE_S = 500, 0.02


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file whole or not at all, also when the machine stops (rename(2) after fsync(2))."""
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    _write(temporary, data, mode)
    temporary.replace(path)
    sync_folder(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file with exactly these permissions; raises FileExistsError rather than touch another."""
    _write(path, data, mode)
    sync_folder(path.parent)


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            os.chmod(path, mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink()  # half a file, which nobody could replace with write_new
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; raises UnsafeOperationError when another command holds it for longer than 10 s.

    The system lets go of it when the process ends, however it ends. Windows has no such lock: there, one at a time.
    """
    if os.name != "posix":  # pragma: no cover - the suite runs on POSIX
        yield
        return
    import fcntl

    attempts = LOCK_ATTEMPTS
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                attempts -= 1
                if not attempts:
                    raise UnsafeOperationError(
                        f"{path}: another verifier command is at work", hint="try again when it has ended"
                    ) from None
                time.sleep(LOCK_PAUSE_S)
        yield


def commit(journal: Path, changes: Mapping[Path, tuple[str, int] | None]) -> None:
    """Write (text, mode) or remove (None) several files in this order, all or none, also when killed on the way.

    What is to be written is written down first; `recover` finishes what was begun. Call it under `locked`.
    """
    entries = [
        [os.path.relpath(path, journal.parent), *(change or (None, 0)), _digest(path)]
        for path, change in changes.items()
    ]
    write_atomic(journal, json.dumps(entries).encode(), 0o600)
    recover(journal)


def recover(journal: Path) -> bool:
    """Finish an interrupted `commit`; whether there was one. Call it under `locked`."""
    _temporary(journal).unlink(missing_ok=True)  # of one that had not begun; it holds what was to be secret
    if not journal.exists():
        return False
    entries = json.loads(journal.read_bytes())
    for name, text, _, before in entries:
        after = None if text is None else hashlib.sha256(text.encode()).hexdigest()
        if _digest(journal.parent / name) not in (before, after):
            # A revocation that came meanwhile, by hand or from version control, must not be undone.
            raise UnsafeOperationError(
                f"{journal.parent / name}: changed since a command was interrupted",
                hint=f"look at the change; to give the interrupted command up, remove {journal}",
            )
    for name, text, mode, _ in entries:
        path = journal.parent / name
        if text is None:
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
        else:
            write_atomic(path, text.encode(), mode)
    journal.unlink()
    sync_folder(journal.parent)
    return True


def _digest(path: Path) -> str | None:
    """Of what a file holds; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None

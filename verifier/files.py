"""Files that other processes change meanwhile: consistent reads, atomic writes, one writer at a time."""

import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from verifier.errors import CommandRefused

_ATTEMPTS = 100
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # which Windows alone has
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # errors that say nothing about a file
LOCK_ATTEMPTS, LOCK_PAUSE_S = 500, 0.02


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """The content of every `*.json` of a folder by name, all from one moment; for one that cannot be read, why.

    Kubernetes swaps a whole volume by renaming its `..data` link. Listing and opening across that swap
    mixes two versions or fails, so links are resolved first and must lead to the same place afterwards.
    Raises OSError when the folder cannot be read.
    """
    for _ in range(_ATTEMPTS):
        version = _version(folder)
        try:
            content = {name: _read(os.path.join(version, name)) for name in _names(version)}
            same = _names(version) == list(content)
        except FileNotFoundError:
            if _version(folder) == version:
                raise
            continue  # the version swapped away was removed
        if same and _version(folder) == version:
            return content
    raise OSError(f"{folder} changes faster than it can be read")


def _version(folder: Path) -> str:
    # The folder is the volume, with `..data` in it, or lies inside one, as a link into its `..data`.
    data = folder / "..data"
    return os.path.realpath(data if data.is_symlink() else folder)


def _names(version: str) -> list[str]:
    return [name for name in sorted(os.listdir(version)) if name.endswith(".json") and not name.startswith(".")]


def _read(path: str) -> bytes | str:
    # Every call lets go of the interpreter, which a server at full load then shares: as few as there can be.
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            return "is a pipe"  # reading it could wait for ever
        descriptor, content = os.open(path, _READ), b""
        try:
            while part := os.read(descriptor, 65_536):
                content += part
        finally:
            os.close(descriptor)
        return content
    except OSError as exc:
        if exc.errno in OURS:
            raise
        return exc.strerror or type(exc).__name__


def mounted_alone(path: Path, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """A file, or the files of a folder, that are mounts of their own: what replaces them elsewhere never gets here.

    Such are `subPath` of Kubernetes and a file given to `docker run -v`. Linux only; elsewhere nothing is found.
    """
    try:
        mounts = [line.split(" ")[3:5] for line in os.fsdecode(table.read_bytes()).splitlines()]
    except OSError:
        return []
    top, is_folder, found = os.path.realpath(path), path.is_dir(), []
    for root, place in mounts:
        place = re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), place)
        alone = os.path.dirname(place) == top or (place == top and not is_folder)
        # A folder is as old when its mount shows one version of a volume and not the volume (see `snapshot`).
        if alone or ("/.." in root and f"{top}/".startswith(f"{place}/")):
            found.append(place)
    return found


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
    """Hold a lock file; raises CommandRefused when another command holds it for longer than 10 s.

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
                    raise CommandRefused(
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
            raise CommandRefused(
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

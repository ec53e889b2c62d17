"""Atomic file replacement, explicit modes and the lock that admits one writer at a time."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from verifier.errors import ConfigError, UnsafeOperationError

LOCK_ATTEMPTS, LOCK_PAUSE_S = 500, 0.02


def resolve(path: Path) -> Path:
    """Follow symbolic links to the file that a write has to replace.

    Replacing the link itself would leave the file that other programs read as it was.

    Raises:
        ConfigError: the path exists and is not a regular file, or its links form a loop.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path}: is not a regular file", hint="remove it, or name another file")
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from exc
    return target(path)


def target(path: Path) -> Path:
    """Return where a path leads if it is a symbolic link; otherwise the path."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file completely or not at all, also if the machine stops (fsync(2), then rename(2))."""
    stage(path, data, mode)
    publish(path)


def stage(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write the new content beside the file, where a full disk is noticed before anything changes."""
    temporary = _temporary(resolve(path))
    with _name_in_errors(path):
        temporary.unlink(missing_ok=True)
        _write(temporary, data, mode)


def publish(path: Path) -> None:
    """Put staged content in the place of the file."""
    file = resolve(path)
    with _name_in_errors(path):
        _temporary(file).replace(file)
    sync_folder(file.parent)


@contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Name the file in an error of the system, not the temporary one beside it."""
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def unstage(path: Path) -> None:
    """Remove staged content that will not be published."""
    _temporary(path).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file and, if it is a link, its target: a private key must not survive behind a link."""
    file = target(path)
    for name in {file, path} if file.is_file() else {path}:  # a pipe or a device holds no key
        name.unlink(missing_ok=True)
        sync_folder(name.parent)


def _temporary(path: Path) -> Path:
    staged = target(path)
    return staged.parent / f".{staged.name}.tmp"


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Create a file with exactly these permissions.

    Raises:
        FileExistsError: the file exists; it is not touched.
    """
    _write(path, data, mode)
    sync_folder(path.parent)


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as file:
            os.chmod(path, mode)  # because the umask may have removed bits
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException as exc:
        path.unlink()  # because write_new could not replace a partial file
        if isinstance(exc, OSError) and exc.filename is None:
            raise OSError(exc.errno, exc.strerror or type(exc).__name__, str(path)) from exc
        raise


def make_folder(path: Path, mode: int) -> None:
    """Create a folder with exactly this mode, and missing parents with 0755, whatever the umask is."""
    for parent in reversed([path, *path.parents]):
        if not parent.exists():
            try:
                parent.mkdir()
            except FileExistsError:  # another process has made it meanwhile
                continue
            parent.chmod(mode if parent == path else 0o755)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable where the system can (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, str(folder)) from exc
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which contains the process id of its holder and is removed at the end.

    The system releases the lock when the process ends, however it ends. Windows has no such lock.

    Raises:
        UnsafeOperationError: another process has held the lock for more than 10 s.
        ConfigError: the lock file cannot be created or locked.
    """
    if os.name != "posix":  # pragma: no cover - the suite runs on POSIX
        yield
        return
    descriptor = _open_locked(path)
    try:
        _note_holder(descriptor)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before the lock is released, so that it is the file of this lock
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as exc:
            hint = f"remove {path}" if os.path.lexists(path) else f"make the folder {path.parent} writable"
            raise ConfigError(f"{path}: cannot be created ({exc.strerror}); nothing was changed", hint) from exc
        try:
            _acquire(descriptor, path)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # the holder before removed it
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    import fcntl

    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            time.sleep(LOCK_PAUSE_S)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            continue
        except OSError as exc:
            hint = "keep the folder on a file system with locks (flock)"
            raise ConfigError(f"{path}: cannot be locked ({exc.strerror}); nothing was changed", hint) from exc
    noted = os.pread(descriptor, 20, 0).strip()
    holder, end_it = (f" {int(noted)}", f" (kill {int(noted)})") if noted.isdigit() else ("", "")
    raise UnsafeOperationError(
        f"{path}: another verifier process{holder} holds the lock; nothing was changed",
        f"try again when it has ended; a suspended process keeps the lock until it continues or is ended{end_it}",
    )


def _note_holder(descriptor: int) -> None:
    with suppress(OSError):  # a full disk: the lock holds without the note
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)

"""Consistent reads of files that other processes replace meanwhile."""

import errno
import os
import re
import stat
import time
from pathlib import Path

from verifier.errors import ConfigError

MAX_KEY_FILE_BYTES = 65_536  # an RSA key of 8,192 bits has 1,500
MAX_APPLICATIONS_BYTES = 4_194_304  # 20,000 applications with two secrets each
MAX_SECRET_BYTES = 16_384  # as much as a request can carry
MAX_FILES = 10_000  # of one folder
MAX_FOLDER_BYTES = 67_108_864
SETTLED_S = 3.0  # longer than the tick of any file system's clock (FAT: 2 s)
_ATTEMPTS = 100
_FILES_IN_A_ROW, _PAUSE_S = 32, 0.001
# Without waiting for the writer of a pipe, and without adopting a terminal. Windows has only O_BINARY.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
RESOURCE_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # of this process, not a fault of the file


def read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`, without waiting for another process.

    It does not block on a pipe, read a device without end, or follow a file that grows while it is read.

    Raises:
        OSError: `strerror` is the cause in words, `filename` the path. The errno is that of the system, EINVAL for
            anything but a regular file (EISDIR for a directory), or EFBIG for more than `max_bytes`.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(name, _OPEN_FLAGS)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        raise OSError(errno.EINVAL, "is a socket, not a regular file", name) from exc
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), name)
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special")
            raise OSError(errno.EINVAL, f"is {kind}, not a regular file", name)
        parts, size = [], 0
        # One byte more than expected, because a shorter result is then the end and saves a system call.
        wanted = min(status.st_size, max_bytes) + 1
        while part := os.read(descriptor, wanted):
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise OSError(errno.EFBIG, f"is larger than {max_bytes} bytes", name)
            if size == status.st_size and len(part) < wanted:
                break
            wanted = min(65_536, max_bytes + 1 - size)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def secret_of_file(data: bytes) -> str:
    """Return the secret that a file holds: without a byte order mark and one newline at the end.

    Editors and `echo` write these, and they are not part of the secret.

    Raises:
        ConfigError: the file is not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise ConfigError(f"is {'UTF-16, not' if utf16 else 'not'} UTF-8", hint="save the file as UTF-8") from exc
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


class FileCache:
    """The content of files that have not changed, by path: a folder of 1,000 keys is otherwise read every second.

    A file is unchanged if its device, inode, size and times are. They say nothing about a change within the same tick
    of the file system's clock, so a file is cached only when its last change is older than `SETTLED_S`.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[tuple[int, ...], bytes]] = {}
        self._used: dict[str, tuple[tuple[int, ...], bytes]] = {}

    def read(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: as `read_file`.
        """
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._files.get(path)
        if known is None or known[0] != identity:
            content = read_file(path, MAX_KEY_FILE_BYTES)
            if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED_S:
                return content
            known = identity, content
        self._used[path] = known
        return known[1]

    def keep_used(self) -> None:
        """Forget every file that was not read since the last call."""
        self._files, self._used = self._used, {}


def snapshot(folder: Path, cache: FileCache | None = None) -> dict[str, bytes | str]:
    """The content of every `*.json` of a folder by name, all from one moment; for one that cannot be read, why.

    Kubernetes swaps a whole volume by renaming its `..data` link. Listing and opening across that swap
    mixes two versions or fails, so links are resolved first and must lead to the same place afterwards.

    Raises:
        OSError: the folder cannot be read, or it holds more than `MAX_FILES` or `MAX_FOLDER_BYTES`.
    """
    cache = cache or FileCache()
    for _ in range(_ATTEMPTS):
        version = _version(folder)
        try:
            content = _read_all(version, cache)
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
    names = [name for name in sorted(os.listdir(version)) if name.endswith(".json") and not name.startswith(".")]
    if len(names) > MAX_FILES:
        raise OSError(errno.EFBIG, f"holds more than {MAX_FILES} files", version)
    return names


def _read_all(version: str, cache: FileCache) -> dict[str, bytes | str]:
    content: dict[str, bytes | str] = {}
    size = 0
    for number, name in enumerate(_names(version), start=1):
        content[name] = data = _read(os.path.join(version, name), cache)
        size += len(data)
        if size > MAX_FOLDER_BYTES:
            raise OSError(errno.EFBIG, f"holds more than {MAX_FOLDER_BYTES} bytes", version)
        if number % _FILES_IN_A_ROW == 0:
            # Each system call competes with the event loop for the interpreter, so a long list is read in pieces.
            time.sleep(_PAUSE_S)
    cache.keep_used()
    return content


def _read(path: str, cache: FileCache) -> bytes | str:
    try:
        return cache.read(path)
    except OSError as exc:
        if exc.errno in RESOURCE_EXHAUSTED:
            raise
        return exc.strerror or type(exc).__name__


def bind_mounted_files(path: Path, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
    """Files that are bind-mounted by themselves, at or in `path`: they never see a replacement of the original.

    Such are `subPath` of Kubernetes and a file given to `docker run -v`. Linux only; elsewhere nothing is found.
    """
    try:
        mounts = [line.split(" ")[3:5] for line in os.fsdecode(table.read_bytes()).splitlines()]
    except OSError:
        return []
    top, is_folder, found = os.path.realpath(path), path.is_dir(), []
    for root, place in mounts:
        place = re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), place)
        own_mount = os.path.dirname(place) == top or (place == top and not is_folder)
        # A folder is as old when its mount shows one version of a volume and not the volume (see `snapshot`).
        if own_mount or ("/.." in root and f"{top}/".startswith(f"{place}/")):
            found.append(place)
    return found

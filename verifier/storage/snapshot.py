"""Consistent reads of files that other processes replace meanwhile."""

import errno
import os
import re
import stat
from pathlib import Path

_ATTEMPTS = 100
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # which Windows alone has
RESOURCE_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # errors that say nothing about a file


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
        if exc.errno in RESOURCE_EXHAUSTED:
            raise
        return exc.strerror or type(exc).__name__


def bind_mounted_files(path: Path, table: Path = Path("/proc/self/mountinfo")) -> list[str]:
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

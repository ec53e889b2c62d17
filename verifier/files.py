"""Files that other processes change meanwhile: consistent reads, atomic writes."""

import os
from pathlib import Path

_ATTEMPTS = 100


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """The content of every `*.json` of a folder by name, all from one moment; for one that cannot be read, why.

    Kubernetes swaps a whole volume by renaming its `..data` link. Listing and opening across that swap
    mixes two versions or fails, so links are resolved first and must lead to the same place afterwards.
    Raises OSError when the folder cannot be read.
    """
    for _ in range(_ATTEMPTS):
        version = _version(folder)
        try:
            content = {path.name: _read(path) for path in _listing(version)}
            same = [path.name for path in _listing(version)] == list(content)
        except FileNotFoundError:
            if _version(folder) == version:
                raise
            continue  # the version swapped away was removed
        if same and _version(folder) == version:
            return content
    raise OSError(f"{folder} changes faster than it can be read")


def _version(folder: Path) -> Path:
    # The folder is the volume, with `..data` in it, or lies inside one, as a link into its `..data`.
    data = folder / "..data"
    return Path(os.path.realpath(data if data.is_symlink() else folder))


def _listing(version: Path) -> list[Path]:
    names = sorted(os.listdir(version))
    return [version / name for name in names if name.endswith(".json") and not name.startswith(".")]


def _read(path: Path) -> bytes | str:
    try:
        return path.read_bytes()
    except OSError as exc:
        return exc.strerror or type(exc).__name__


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file whole or not at all, also when the machine stops (rename(2) after fsync(2))."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    _write(temporary, data, mode)
    temporary.replace(path)
    sync_folder(path.parent)


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

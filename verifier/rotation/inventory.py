"""Everything that the rules of the audit are applied to, read once."""

import contextlib
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verifier.core import applications as apps
from verifier.core.applications import Applications
from verifier.core.keyring import Keyring, KeyState, PublicKey
from verifier.core.times import CRYPTOPERIOD_S
from verifier.errors import ConfigError
from verifier.rotation import leaks, witness
from verifier.rotation.history import Anchor, History, load
from verifier.rotation.plan import OverlapPolicy, live_keys
from verifier.rotation.replicas import Replica
from verifier.rotation.witness import LOG, MAX_LOG_BYTES, Witness
from verifier.storage.key_directory import KeyDirectory
from verifier.storage.snapshot import MAX_APPLICATIONS_BYTES, MAX_KEY_FILE_BYTES, read_file

MAX_FILES = 20_000
JOURNAL = ".commit.json"  # in private/, while a command is not complete


@dataclass(frozen=True, slots=True)
class File:
    """A file or folder below the key directory."""

    path: Path
    name: str  # below the key directory; "." for the directory itself
    mode: int
    is_folder: bool
    is_regular: bool
    content: bytes | None = field(repr=False, default=None)  # None: a folder, or not read

    @property
    def is_private_key(self) -> bool:
        """Whether it is, or contains, a private key."""
        if not self.is_regular:
            return False
        found = leaks.is_private_key(self.content or b"", members=self.name != LOG)
        return found or self.path.suffix.lower() in witness.PRIVATE_SUFFIXES


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything that the rules are applied to."""

    folder: Path
    now: int
    keyring: Keyring
    problems: tuple[str, ...]  # public files that cannot be used, and why
    files: tuple[File, ...]
    history: History
    anchor: Anchor
    window: OverlapPolicy  # from the auditor's environment; a line of the history may hold another
    cryptoperiod_s: int = CRYPTOPERIOD_S
    witness: Witness = field(default_factory=Witness)
    since: Anchor | None = None
    since_problem: str = ""  # why the history does not continue from `since`
    deployed: Keyring | None = None  # what replicas and signers have now; None: not known
    require_signed: bool = False
    allow_uncommitted: bool = False
    applications: Applications | None = None
    application_problems: tuple[str, ...] = ()
    replicas: tuple[Replica, ...] = ()
    metrics: bool = False  # whether there was a metrics page to read
    metrics_problems: tuple[str, ...] = ()  # why one could not be read
    last_use: Mapping[tuple[str, str], float] = field(default_factory=dict)  # by kind ("key", "secret") and name

    @classmethod
    def read(
        cls,
        folder: Path,
        *,
        now: int,
        window: OverlapPolicy,
        applications: Path | None = None,
        since: Anchor | None = None,
        deployed: Path | None = None,
        **others: Any,
    ) -> "Inventory":
        """Read a key directory, and an applications file; `others` are the fields that do not depend on them.

        Raises:
            ConfigError: one of them cannot be read.
        """
        directory = KeyDirectory(folder / "public")
        directory.refresh()
        if not directory.folder.is_dir():
            raise ConfigError(directory.problems[0], hint=directory.missing_hint)
        log = _read(folder / LOG, MAX_LOG_BYTES, optional=True)
        known, problems = _parse_applications(applications) if applications else (None, [])
        files = tuple(itertools.islice(_walk(folder), MAX_FILES + 1))
        if len(files) > MAX_FILES:
            raise ConfigError(f"{folder}: has more than {MAX_FILES} files and folders")
        return cls(
            folder=folder,
            now=now,
            window=window,
            keyring=directory.keyring,
            problems=directory.problems,
            files=files,
            history=load(log),
            anchor=Anchor.of(log),
            witness=witness.query(folder, log, applications),
            since=since,
            since_problem=since.broken_by(log) if since else "",
            deployed=_load_deployed(deployed) if deployed else None,
            applications=known,
            application_problems=tuple(problems),
            **others,
        )

    def live_keys(self) -> list[PublicKey]:
        """Return the keys that verify now or will, by nbf."""
        return live_keys(self.keyring, self.now)

    def keys_in(self, *states: KeyState) -> list[PublicKey]:
        """Return the keys in one of these states."""
        return [key for key in self.keyring.keys.values() if self.keyring.state(key, self.now) in states]

    def is_new(self, number: int) -> bool:
        """Return whether a line of the history is after those that the anchor covers."""
        return self.since is None or number > self.since.lines

    def in_period(self, instant: int) -> bool:
        """Return whether something that happened then is audited: after the last line that the anchor covers."""
        covered = self.history.lines[: self.since.lines] if self.since else ()
        return all(line is None or instant > line.at for line in covered)

    def has(self, needed: str) -> bool:
        """Return whether what a rule needs is here; "" is nothing."""
        return {
            "": True,
            "--replica URL": bool(self.replicas),
            "--since N:DIGEST": self.since is not None,
            "--metrics URL": self.metrics,
            "--deployed FOLDER": self.deployed is not None,
            "--require-signed": self.require_signed,
            "--applications FILE": self.applications is not None,
            "a git checkout": self.witness.clean is not None,
            "private keys": bool(self.private_keys()),
        }[needed]

    def private_keys(self) -> list[File]:
        """Return the files in private/ that a signer loads."""
        files = [file for file in self.files if file.is_regular]
        return [file for file in files if re.fullmatch(r"private/[^/.][^/]*\.pem", file.name)]


def _read(path: Path, limit: int, *, optional: bool = False) -> bytes:
    try:
        return read_file(path, limit)
    except OSError as exc:
        if optional and isinstance(exc, FileNotFoundError) and not path.is_symlink():
            return b""
        hint = "restore the file, or mount the volume that its link leads to"
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})", hint) from exc


def _load_deployed(folder: Path) -> Keyring:
    try:
        return KeyDirectory(folder / "public").load()
    except ConfigError as exc:
        raise ConfigError(str(exc), hint="name a folder with the keys that are deployed: --deployed FOLDER") from exc


def _parse_applications(path: Path) -> tuple[Applications, list[str]]:
    content = _read(path, MAX_APPLICATIONS_BYTES)
    try:
        return apps.parse(content)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}", exc.hint) from exc


def _walk(folder: Path) -> Iterator[File]:
    """Yield the directory and everything below it, once each; also behind links to folders."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != ".git")
        for path in (Path(parent), *(Path(parent, name) for name in sorted(names))):
            with contextlib.suppress(OSError):  # removed in the meantime, or a link to nothing or in a loop
                yield _file(path, path.relative_to(folder).as_posix())


def _file(path: Path, name: str) -> File:
    status = path.stat()
    # A private key that a signer loads is not opened, and the journal of an interrupted command holds one.
    signers = name.startswith("private/") and name.count("/") == 1 and (name.endswith(".pem") or JOURNAL in name)
    content, mode, is_regular = None, stat.S_IMODE(status.st_mode), stat.S_ISREG(status.st_mode)
    if is_regular and not signers:
        with contextlib.suppress(OSError):  # larger than any key, not readable, or removed in the meantime
            content = read_file(path, max(MAX_KEY_FILE_BYTES, MAX_LOG_BYTES if name == LOG else 0))
    return File(path, name, mode, stat.S_ISDIR(status.st_mode), is_regular, content)


def public_members(file: File) -> dict[str, object]:
    """Return the members of a public key file; empty for one that cannot be parsed."""
    try:
        members = json.loads(file.content or b"")
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}

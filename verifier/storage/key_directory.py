"""The key directory: one `<kid>.json` file per public key, read again when its content changes."""

import errno
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from verifier.core.keyring import Keyring, PublicKey, parse_public_key
from verifier.errors import KeyFileError
from verifier.storage import snapshot

# A file system may report a change late or not at all: every so many reads, nothing is taken from the cache.
READS_PER_FULL_READ = 60
MAX_REVOKED = 10_000  # 2 MB
TOO_MANY_REVOKED = f"more than {MAX_REVOKED} keys have been revoked since the start; no key is trusted until a restart"


class KeyDirectory:
    """The keyring in a folder of `<kid>.json` files, read again when their content changes.

    A revocation is final: a key that this object has once read as revoked stays revoked, whatever its file contains
    later. Only a new process forgets it. The memory is bounded: beyond `MAX_REVOKED` keys, no key is trusted at all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = self.path = folder
        self.keyring = Keyring()
        self.problems: tuple[str, ...] = ()
        self.undone_revocations: tuple[str, ...] = ()  # kids of revoked keys whose file is no longer revoked
        self.unread = ""  # why the last refresh learned nothing, or ""
        self._revoked: dict[str, tuple[int, str]] = {}  # by kid: revoked_at and reason
        self._last_content: Mapping[str, bytes | str] | str | None = None
        self._parsed: dict[str, tuple[bytes | str, PublicKey | KeyFileError]] = {}
        self._cache = snapshot.FileCache()
        self._reads = 0

    def refresh(self, *, full: bool = False) -> bool:
        """Reload the folder; return whether its content changed.

        An invalid file disables only its own key. A folder that cannot be read leaves no key, because keeping the
        last good set could undo a revocation. With `full`, no content is taken from the cache.
        """
        self._reads += 1
        if full or self._reads % READS_PER_FULL_READ == 0:
            self._cache = snapshot.FileCache()
        self.unread = ""
        try:
            content: Mapping[str, bytes | str] | str = snapshot.snapshot(self.folder, self._cache)
        except OSError as exc:
            if exc.errno in snapshot.RESOURCE_EXHAUSTED and self._last_content is not None:
                self.unread = exc.strerror or errno.errorcode[exc.errno]
                return False  # because nothing is known to have changed
            content = f"{self.folder}: cannot be read ({exc.strerror or exc})"
        if content == self._last_content:
            return False
        problems = [content] if isinstance(content, str) else []
        keys = self._keep_revoked(self._parse({} if isinstance(content, str) else content, problems))
        if len(self._revoked) > MAX_REVOKED:
            keys, problems = [], [f"{self.folder}: {TOO_MANY_REVOKED}", *problems]
        self.keyring, self.problems, self._last_content = Keyring(keys), tuple(problems), content
        return True

    def _parse(self, content: Mapping[str, bytes | str], problems: list[str]) -> Iterator[PublicKey]:
        """Parse the files that have changed, and yield every key."""
        before, self._parsed = self._parsed, {}
        for name, data in content.items():
            known = before.get(name)
            if known is None or known[0] != data:
                known = data, _parse_file(name, data)
            self._parsed[name] = known
            if isinstance(known[1], KeyFileError):
                problems.append(f"{self.folder / name}: {known[1]}")
            else:
                yield known[1]

    def _keep_revoked(self, keys: Iterable[PublicKey]) -> list[PublicKey]:
        """Remember the revoked keys, and revoke again those that are not revoked in their files any more."""
        kept, undone = [], []
        for key in keys:
            if key.revoked_at is not None:
                self._revoked[key.kid] = key.revoked_at, key.reason
            elif key.kid in self._revoked:
                revoked_at, reason = self._revoked[key.kid]
                key = replace(key, revoked_at=revoked_at, reason=reason)
                undone.append(key.kid)
            kept.append(key)
        self.undone_revocations = tuple(undone)
        return kept

    @property
    def is_nested(self) -> bool:
        """Whether the key directory is missing and would be inside another one: somebody named its public/."""
        return self.folder.parent.name in ("public", "private") and not self.folder.exists()

    def require_readable(self) -> None:
        """Refuse a folder of which nothing could be read, so that it is not known which keys it holds.

        Raises:
            KeyFileError: the folder cannot be read.
        """
        if isinstance(self._last_content, str):
            hint = self.missing_hint or f"remove the cause, so that this account can read {self.folder}"
            raise KeyFileError(f"{self._last_content}; nothing was changed", hint)

    @property
    def missing_hint(self) -> str:
        """What to do about a folder that does not exist, or an empty text."""
        keys = self.folder.parent
        if self.is_nested:
            return f"name the folder that holds {keys.name}/: {keys.parent}"
        if os.path.lexists(self.folder):
            return "" if self.folder.is_dir() else f"{self.folder} must be a folder, or a link to a folder"
        return f"correct the path, or create it: verifier keys generate --keys {shlex.quote(str(keys))}"

    def load(self) -> Keyring:
        """Read the folder, in which every file must be valid.

        Raises:
            KeyFileError: there is no key, or a file is invalid; the text names each.
        """
        self.refresh()
        if self.problems:
            hint = self.missing_hint or "repair or remove the file; verifier keys list shows the rest"
            raise KeyFileError("; ".join(self.problems), hint=hint)
        if not self.keyring.keys:
            raise KeyFileError(f"{self.folder}: no key (expected <kid>.json)", "create one: verifier keys generate")
        return self.keyring


def find_public_key(name: str, data: bytes | str) -> PublicKey | None:
    """Return the key of a file as `parse_public_key` does; None if it has none that can be used."""
    found = _parse_file(name, data)
    return None if isinstance(found, KeyFileError) else found


def _parse_file(name: str, data: bytes | str) -> PublicKey | KeyFileError:
    try:
        return parse_public_key(name, data)
    except KeyFileError as exc:
        return exc

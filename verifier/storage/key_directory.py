"""The key directory: one `<kid>.json` file per public key, read again when its content changes."""

from pathlib import Path

from verifier.core.keyring import Keyring, parse_public_key
from verifier.errors import KeyFileError
from verifier.storage import snapshot


class KeyDirectory:
    """The keyring in a folder of `<kid>.json` files, read again when their content changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keyring = Keyring()
        self.problems: tuple[str, ...] = ()
        self._last_content: dict[str, bytes | str] | str | None = None

    def refresh(self) -> bool:
        """Take in what is there now; whether anything changed. A bad file costs its own key, no other.

        A folder that cannot be read leaves no key: keeping the last good set could undo a revocation.
        """
        try:
            content: dict[str, bytes | str] | str = snapshot.snapshot(self.folder)
        except OSError as exc:
            if exc.errno in snapshot.RESOURCE_EXHAUSTED and self._last_content is not None:
                return False  # out of file descriptors or memory: nothing is known to have changed
            content = f"{self.folder}: cannot be read ({exc.strerror or exc})"
        if content == self._last_content:
            return False
        keys, problems = [], [content] if isinstance(content, str) else []
        for name, data in content.items() if isinstance(content, dict) else ():
            try:
                keys.append(parse_public_key(name, data))
            except KeyFileError as exc:
                problems.append(f"{self.folder / name}: {exc}")
        self.keyring, self.problems, self._last_content = Keyring(keys), tuple(problems), content
        return True

    def load(self) -> Keyring:
        """The keyring, where every file must be good; raises KeyFileError naming each one that is not."""
        self.refresh()
        if self.problems:
            raise KeyFileError(
                "; ".join(self.problems), hint="mend or remove the file; verifier keys list shows the rest"
            )
        if not self.keyring.keys:
            raise KeyFileError(f"{self.folder}: no key (expected <kid>.json)", hint="make one: verifier keys generate")
        return self.keyring

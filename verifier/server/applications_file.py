"""The applications that the settings name, read again when the content of their file changes."""

import os
from pathlib import Path

from verifier.core.applications import Application, Applications, Secret, parse
from verifier.errors import ConfigError
from verifier.server.settings import Settings
from verifier.storage.snapshot import (
    MAX_APPLICATIONS_BYTES,
    MAX_SECRET_BYTES,
    RESOURCE_EXHAUSTED,
    read_file,
    secret_of_file,
)


class ApplicationsFile:
    """The applications of a file, or the only application with its secret in a file or a variable."""

    def __init__(self, settings: Settings) -> None:
        self.applications = Applications()
        self.problems: tuple[str, ...] = ()
        self.unread = ""  # why the last refresh learned nothing, or ""
        self._settings = settings
        path = settings.applications or settings.secret_key_file
        self.is_file, self.path = path is not None, path or Path(os.devnull)
        self._last_content: bytes | str | None = None
        if settings.secret_key is not None:
            self.applications = Applications([Application(settings.application_id, (settings.secret_key,))])

    def refresh(self, *, full: bool = False) -> bool:  # noqa: ARG002 - nothing is cached
        """Reload the file; return whether its content changed.

        An invalid entry disables only its own application. If nothing can be read from the file, because it is
        incomplete or missing, the last good version stays in effect and the problem is reported.
        """
        if not self.is_file:
            return False
        self.unread = ""
        try:
            limit = MAX_APPLICATIONS_BYTES if self._settings.applications else MAX_SECRET_BYTES
            content: bytes | str = read_file(self.path, limit)
        except OSError as exc:
            reason = exc.strerror or type(exc).__name__
            if exc.errno in RESOURCE_EXHAUSTED and self._last_content is not None:
                self.unread = reason
                return False
            content = f"cannot be read ({reason})"
        if content == self._last_content:
            return False
        self._last_content = content
        try:
            self.applications, problems = self._parse(content)
        except ConfigError as exc:
            problems = [str(exc)]
        self.problems = tuple(f"{self.path}: {problem}" for problem in problems)
        return True

    def _parse(self, content: bytes | str) -> tuple[Applications, list[str]]:
        if isinstance(content, str):
            raise ConfigError(content)
        if self._settings.applications is not None:
            return parse(content)
        secret = Secret.of(secret_of_file(content))
        return Applications([Application(self._settings.application_id, (secret,))]), []

    def load(self) -> Applications:
        """Read the applications, of which every one must be valid.

        Raises:
            ConfigError: the file cannot be read, an entry is invalid, or there is none.
        """
        self.refresh()
        if self.problems:
            hint = "repair the file or restore it, or correct the setting that names it"
            raise ConfigError("; ".join(self.problems), hint)
        if not self.applications.by_id:
            raise ConfigError(f"{self.path}: no application", hint="add one: verifier applications add ID")
        return self.applications

"""Reading the key directory and the applications, and reading them again when their content changes."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from verifier.core.applications import Application, Applications, Secret, parse
from verifier.errors import ConfigError
from verifier.server.log import Telemetry
from verifier.server.settings import Settings
from verifier.storage.key_directory import KeyDirectory
from verifier.storage.snapshot import MAX_APPLICATIONS_BYTES, MAX_SECRET_BYTES, bind_mounted_files, read_file

RELOAD_INTERVAL_S = 1.0


class ApplicationsFile:
    """The applications the settings name, read again when the content of their file changes."""

    def __init__(self, settings: Settings) -> None:
        self.applications = Applications()
        self.problems: tuple[str, ...] = ()
        self._settings = settings
        self._path = settings.applications or settings.secret_key_file
        self._last_content: bytes | str | None = None
        if settings.secret is not None:
            self.applications = Applications([Application(settings.application_id, (settings.secret,))])

    def refresh(self) -> bool:
        """Take in what is there now; whether anything changed.

        A bad entry costs its own application. A file that says nothing at all (half written, gone)
        changes nothing: the applications of before go on, and the problem is shown.
        """
        if self._path is None:
            return False
        try:
            limit = MAX_APPLICATIONS_BYTES if self._settings.applications else MAX_SECRET_BYTES
            content: bytes | str = read_file(self._path, limit)
        except OSError as exc:
            content = f"cannot be read ({exc.strerror})"
        if content == self._last_content:
            return False
        self._last_content = content
        try:
            self.applications, problems = self._parse(content)
        except ConfigError as exc:
            problems = [str(exc)]
        self.problems = tuple(f"{self._path}: {problem}" for problem in problems)
        return True

    def _parse(self, content: bytes | str) -> tuple[Applications, list[str]]:
        if isinstance(content, str):
            raise ConfigError(content)
        if self._settings.applications is not None:
            return parse(content)
        # Editors and `echo` end a file with a newline that is not part of the secret.
        secret = content.removesuffix(b"\r\n") if content.endswith(b"\r\n") else content.removesuffix(b"\n")
        text = secret.decode("utf-8", "surrogateescape")
        return Applications([Application(self._settings.application_id, (Secret.of(text),))]), []

    def load(self) -> Applications:
        """The applications, where everything must be good; raises ConfigError."""
        self.refresh()
        if self.problems:
            raise ConfigError("; ".join(self.problems), hint="verifier applications list shows what is read")
        if not self.applications.by_id:
            raise ConfigError(f"{self._path}: no application", hint="add one: verifier applications add ID")
        return self.applications


class Reloader:
    """The keys and applications of one process, reloaded every second and at SIGHUP."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        """Read everything.

        Raises:
            ConfigError: a file is missing or invalid.
        """
        self.keys = KeyDirectory(settings.keys / "public")
        self.applications = ApplicationsFile(settings)
        self.keys.load()
        self.applications.load()
        paths = (settings.keys / "public", settings.applications or settings.secret_key_file)
        self.bind_mounted_files = [file for path in paths if path for file in bind_mounted_files(path)]
        self.requested = asyncio.Event()
        self.telemetry = telemetry

    async def reload_loop(self) -> None:
        """Reload every second, and at once when `requested` is set, until cancelled."""
        while True:
            requested = False
            with suppress(TimeoutError):
                requested = await asyncio.wait_for(self.requested.wait(), RELOAD_INTERVAL_S)
            self.requested.clear()
            telemetry, started = self.telemetry, time.perf_counter()
            try:
                await asyncio.to_thread(self.refresh, requested)
                telemetry.reloaded_at, telemetry.reload_s = time.time(), time.perf_counter() - started
            except Exception as exc:  # noqa: BLE001 - a reload that fails must not be the last
                telemetry.reload_failures += 1
                telemetry.log.error("reload failed", error=type(exc).__name__)

    def refresh(self, requested: bool = False) -> None:
        """Reload keys and applications; log if anything changed or a reload was requested."""
        log = self.telemetry.log
        if self.keys.refresh() or requested:
            keyring = self.keys.keyring
            log.info("reload", what="keys", count=len(keyring.keys), key_set_digest=keyring.digest)
            self.log_problems(self.keys.problems)
        if self.applications.refresh() or requested:
            applications = self.applications.applications
            log.info("reload", what="applications", count=len(applications.by_id))
            self.log_problems(self.applications.problems, applications.weaknesses())

    def log_problems(self, problems: Iterable[str], weaknesses: Iterable[str] = ()) -> None:
        """Log invalid files as errors, and weak secrets and files that cannot be watched as warnings."""
        for problem in problems:
            self.telemetry.log.error("problem", problem=problem)
        for problem in weaknesses:
            self.telemetry.log.warning("problem", problem=problem)


@contextmanager
def sighup_handler(callback: Callable[[], object]) -> Iterator[None]:
    """Install a SIGHUP handler while the context is active (no-op on Windows)."""
    if not hasattr(signal, "SIGHUP"):  # pragma: no cover - Windows
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, callback)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # during graceful shutdown

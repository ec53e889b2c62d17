"""The keys and applications of one process, read again every second, at SIGHUP, and before a request that needs it."""

import asyncio
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from verifier.errors import Reason, ServiceUnavailableError
from verifier.server.applications_file import ApplicationsFile
from verifier.server.log import Telemetry
from verifier.server.reader import Periodic, Reader, read_in_time
from verifier.server.settings import Settings
from verifier.storage.key_directory import KeyDirectory
from verifier.storage.refresher import reset_in_child
from verifier.storage.snapshot import bind_mounted_files

CURRENT_S = 3.0  # a request waits for the next read if the last one is older
CATCH_UP_S = 2.0  # but only so long, because sign-ins continue while a read hangs


class Reloader:
    """The keys and applications of one process."""

    def __init__(self, settings: Settings, telemetry: Telemetry, on_start: Callable[[], None] = lambda: None) -> None:
        """Read everything; `on_start` is called when reading begins, in this process or in a child.

        Raises:
            ConfigError: a file is missing or invalid, or a read does not finish.
        """
        self.keys = KeyDirectory(settings.keys / "public")
        self.applications = ApplicationsFile(settings)
        self.telemetry, self._on_start = telemetry, on_start
        self.max_staleness_s = settings.max_staleness_s
        self.bind_mounted_files: list[str] = []
        self._stale = False
        self.readers = [Reader("keys", self.keys, telemetry, self._on_read)]
        if self.applications.is_file:
            self.readers.append(Reader("applications", self.applications, telemetry, self._on_read))
        self.reset()
        for reader in self.readers:
            path = reader.source.path
            read_in_time(path, reader.source.load)
            self.bind_mounted_files += read_in_time(path, functools.partial(bind_mounted_files, path))
            reader.read_at, reader.completed_at = time.time(), time.monotonic()
        reset_in_child(self)

    def reset(self) -> None:
        """Start anew in a child process."""
        self.read_at = 0.0  # no request is answered before the first read by this process
        self._lock = threading.Lock()
        self._monitor = Periodic(self._check)
        self._reading: asyncio.Task[None] | None = None  # what requests wait for
        self._reading_since = 0.0
        for reader in self.readers:
            reader.reset()

    def start(self) -> None:
        """Start reading, unless it is running."""
        with self._lock:
            if not self._monitor.is_running():
                self._on_start()
            # A stopped thread may not have noticed yet, and goes on.
            self._monitor.start()
            for reader in self.readers:
                reader.thread.start()

    def stop(self) -> None:
        """Stop reading until the next `start`; a read in progress is left alone."""
        self.read_at = 0.0
        self._monitor.stop()
        for reader in self.readers:
            reader.thread.stop()

    def request(self) -> None:
        """Read everything now, and log it."""
        for reader in self.readers:
            reader.read_all()

    def is_current(self, now: float) -> bool:
        """Return whether a request can be answered without waiting for a read."""
        return -CURRENT_S < now - self.read_at < CURRENT_S

    async def catch_up(self) -> None:
        """Wait for a read that began at most CATCH_UP_S ago.

        Called where files are not current: in the first request of a process, and after it was suspended. All requests
        of an event loop wait for one task, because the futures of a wait of its own take 12 KB for each.

        Raises:
            ServiceUnavailableError: the last completed read is too old.
        """
        loop, now, reading = asyncio.get_running_loop(), time.time(), self._reading
        # Not one that began long ago, before the process was suspended.
        recent = abs(now - self._reading_since) < CATCH_UP_S
        if reading is None or reading.done() or reading.get_loop() is not loop or not recent:
            reading = self._reading = loop.create_task(self._read_now())
            self._reading_since = now
        await asyncio.wait([reading])
        if self.age_s() > self.max_staleness_s:
            raise ServiceUnavailableError(Reason.KEYS_STALE)

    async def _read_now(self) -> None:
        self.start()
        waits = {asyncio.wrap_future(reader.request()): reader for reader in self.readers if not reader.behind}
        try:
            if waits:
                _, pending = await asyncio.wait(waits, timeout=CATCH_UP_S)
                for wait in pending:
                    waits[wait].behind = True  # so that the next request does not wait, too
        finally:
            for wait in waits:
                wait.cancel()

    def age_s(self) -> float:
        """Return the time in seconds since the last completed read of everything began."""
        return time.monotonic() - min(reader.completed_at for reader in self.readers)

    @property
    def reloaded_at(self) -> float:
        """When the last completed read of everything began, in seconds since 1970."""
        return min(reader.read_at for reader in self.readers)

    def _check(self) -> None:
        """Report reads that hang, and files that have become too old to be trusted."""
        for reader in self.readers:
            reader.check_overdue()
        stale = self.age_s() > self.max_staleness_s
        if stale and not self._stale:
            self.log_problems(
                [f"no read has completed for {self.max_staleness_s} s; every token is rejected until one does"]
            )
        self._stale = stale
        self.telemetry.flush()

    def _on_read(self, reader: Reader, log: bool) -> None:
        with self._lock:
            self.read_at = self.reloaded_at
        if log and reader.kind == "keys":
            keyring = self.keys.keyring
            self.telemetry.log.info("reload", kind="keys", count=len(keyring.keys), key_set_digest=keyring.digest)
            # An empty folder is no problem to a command: the first key is made there. Here, its volume is not mounted.
            missing = [] if keyring.keys else [f"{self.keys.folder}: no key (expected <kid>.json)"]
            self.log_problems(self.keys.problems or missing)
            for kid in self.keys.undone_revocations:
                self.telemetry.log.error("revocation_undone", kid=kid, path=str(self.keys.folder / f"{kid}.json"))
        elif log:
            applications = self.applications.applications
            self.telemetry.log.info("reload", kind="applications", count=len(applications.by_id))
            self.log_problems(self.applications.problems, applications.weaknesses())

    def log_problems(self, problems: Iterable[str], weaknesses: Iterable[str] = ()) -> None:
        """Log invalid files as errors, and weak secrets and files that cannot be watched as warnings."""
        for problem in problems:
            self.telemetry.log.error("config_problem", problem=problem)
        for problem in weaknesses:
            self.telemetry.log.warning("config_problem", problem=problem)


@contextmanager
def sighup_handler(callback: Callable[[], object]) -> Iterator[None]:
    """Call `callback` at SIGHUP while the context is active.

    Only where the signal is ignored, as `verifier serve` leaves it: in another program it is not ours to handle.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "SIGHUP") or not in_main_thread or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, callback)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # during graceful shutdown

"""`verifier` in a terminal of its own."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

TIMEOUT_S = 30


class Terminal:
    """A process and what it has written to its terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self.process = process
        self.shown = b""
        self._descriptor = descriptor

    def write(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def read_until(self, text: str = "") -> str:
        """Read until this text appears, or until the process ends; return everything that was shown."""
        deadline = time.monotonic() + TIMEOUT_S
        while not text or text.encode() not in self.shown:
            ready, _, _ = select.select([self._descriptor], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} did not appear within {TIMEOUT_S} s: {self.shown!r}"
            try:
                data = os.read(self._descriptor, 65_536)
            except OSError:  # Linux: the other side is closed
                data = b""
            if not data:
                assert not text, f"the process ended before {text!r} appeared: {self.shown!r}"
                break
            self.shown += data
        return self.shown.decode()


@contextlib.contextmanager
def run_in_terminal(*arguments: str, environment: dict[str, str], stdout: int | None = None) -> Iterator[Terminal]:
    """Start `verifier` in a terminal; `stdout` can be PIPE. The process ends with the block, whatever happens."""
    parent, child = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "verifier", *arguments],
            env={name: value for name, value in os.environ.items() if not name.startswith("VERIFIER_")} | environment,
            stdin=child,
            stdout=child if stdout is None else stdout,
            stderr=child,
            start_new_session=True,
        )
    finally:
        os.close(child)
    with process:
        try:
            yield Terminal(process, parent)
        finally:
            process.kill()
            os.close(parent)

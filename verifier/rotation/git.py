"""Read-only queries of git: bounded in time and output, without what a repository's own files can set."""

import contextlib
import copy
import hashlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from verifier.storage.snapshot import read_file

TIMEOUT_S = 60.0  # of all queries of one audit together
MAX_OUTPUT_BYTES = 67_108_864
BATCH_BYTES = 16_777_216  # of objects that are read at once
_OPTIONS = (
    "--no-pager", "--no-optional-locks", "--literal-pathspecs",
    "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "-c", "core.quotePath=false",
    "-c", "log.showSignature=false", "-c", "core.untrackedCache=false",
    "-c", "core.commitGraph=false",  # because that file can leave commits and changes out
)  # fmt: skip
_LOG = (
    "log", "--all", "--full-history", "-m", "--no-renames", "--no-ext-diff", "--no-textconv", "-z", "--raw",
    "--no-abbrev", "--diff-filter=d", "--format=%x01%H",
)  # fmt: skip
# An empty list of protocols, because a query must not fetch what a partial clone lacks.
_ENVIRONMENT = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_REPLACE_OBJECTS": "1", "GIT_ALLOW_PROTOCOL": ""}


class GitError(Exception):
    """Git could not be queried; the text is the cause."""


def find_repositories(folder: Path) -> list[Path]:
    """Return the folder and its parents that have a `.git`, the nearest first."""
    return [path for path in (folder, *folder.parents) if os.path.lexists(path / ".git")]


class Git:
    """The git command in the top folder of a working tree; without the caller's variables, which can name another."""

    def __init__(self, folder: Path, timeout_s: float = TIMEOUT_S, variables: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._deadline = time.monotonic() + timeout_s
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        own = {"GIT_WORK_TREE": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
        self._environment = {**kept, **_ENVIRONMENT, **(own if variables is None else variables)}

    @contextlib.contextmanager
    def objects(self) -> Iterator[tuple["Git", str]]:
        """Yield git for the same commits in an empty repository, and the commit of HEAD; "" if there is none.

        Because the configuration of a repository (filters, programs, trusted signers), its attributes, grafts and
        replaced objects can run a program, or show other commits than those that were made.

        Raises:
            GitError: as `run`.
        """
        head = self.text("rev-parse", "--verify", "--quiet", "HEAD^{commit}", expected=(0, 1)).strip()
        tips = self.text("for-each-ref", "--format=%(objectname)").split()
        paths = self.text("rev-parse", "--git-path", "objects", "--git-path", "shallow").splitlines()
        objects, boundary = (self._folder / paths[0]).resolve(), self._folder / paths[-1]
        sha256 = "[extensions]\n\tobjectFormat = sha256\n" if len(head or min(tips, default="")) == 64 else ""
        with tempfile.TemporaryDirectory(prefix="verifier-git-") as name:
            folder = Path(name)
            for part in ("objects", "refs"):
                (folder / part).mkdir()
            (folder / "config").write_text(f"[core]\n\trepositoryFormatVersion = 1\n\tbare = true\n{sha256}")
            (folder / "HEAD").write_text(f"{head or 'ref: refs/heads/none'}\n")
            (folder / "packed-refs").write_text("".join(f"{tip} refs/tips/{tip}\n" for tip in sorted(set(tips))))
            with contextlib.suppress(OSError):  # without the boundary of a shallow clone, git fails at it
                (folder / "shallow").write_bytes(read_file(boundary, MAX_OUTPUT_BYTES))
            remaining_s = self._deadline - time.monotonic()
            yield Git(folder, remaining_s, {"GIT_DIR": name, "GIT_OBJECT_DIRECTORY": str(objects)}), head

    def within(self, timeout_s: float) -> "Git":
        """Return the same with less time."""
        found = copy.copy(self)
        found._deadline = min(self._deadline, time.monotonic() + timeout_s)
        return found

    def text(self, *arguments: str, stdin: bytes = b"", expected: tuple[int, ...] = (0,)) -> str:
        """Return the output of a command as text; bytes that are not UTF-8 are escaped.

        Raises:
            GitError: as `run`.
        """
        return self.run(*arguments, stdin=stdin, expected=expected).decode("utf-8", "backslashreplace")

    def run(self, *arguments: str, stdin: bytes = b"", expected: tuple[int, ...] = (0,)) -> bytes:
        """Return the output of a command.

        Raises:
            GitError: git is missing, fails, or exceeds the time or the size.
        """
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
            given.write(stdin)
            given.seek(0)
            try:
                process = subprocess.Popen(  # noqa: S603 - fixed arguments, no shell
                    ["git", *_OPTIONS, *arguments],  # noqa: S607 - from the auditor's PATH
                    cwd=self._folder,
                    env=self._environment,
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as exc:
                raise GitError(f"git could not be started ({exc.strerror})") from exc
            output, cause = self._collect(process)
            errors.seek(0)
            message = errors.read(1000).decode("utf-8", "backslashreplace").strip().partition("\n")[0]
        if cause:
            raise GitError(f"git {arguments[0]} {cause}")
        if process.returncode not in expected:
            raise GitError(f"git {arguments[0]} failed ({message or f'exit status {process.returncode}'})")
        return output

    def changes(self, *arguments: str) -> Iterator[tuple[str, str, str]]:
        """Yield each file that a commit of any branch or tag added or changed: the commit, the blob and the path.

        Raises:
            GitError: as `run`.
        """
        commit, tokens = "", iter(self.text(*_LOG, *arguments).split("\0"))
        for token in tokens:
            token = token.strip("\n")
            if token.startswith("\x01"):
                commit = token[1:]
            elif token:  # the path follows, whatever it looks like
                path, (_, mode, _, blob, _) = next(tokens), token.split(" ")
                if mode != "160000":  # a commit of another repository
                    yield commit, blob, path

    def _collect(self, process: "subprocess.Popen[bytes]") -> tuple[bytes, str]:
        """Return the output, and why the process was ended, or ""."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _kill(process)

        timer = threading.Timer(max(0.0, self._deadline - time.monotonic()), expire)
        timer.start()
        try:
            with process.stdout as pipe:  # type: ignore[union-attr] # it is PIPE
                output = pipe.read(MAX_OUTPUT_BYTES + 1)
                if len(output) > MAX_OUTPUT_BYTES:
                    _kill(process)
            process.wait()
        finally:
            timer.cancel()
        if expired.is_set():
            return b"", "did not end in time"
        return output, f"printed more than {MAX_OUTPUT_BYTES} bytes" if len(output) > MAX_OUTPUT_BYTES else ""


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End git and what it started, such as gpg, which can hold the pipe open after git itself has ended."""
    if process.returncode is not None:
        return  # because its number may be another process's by now; until then, git is not polled
    if hasattr(os, "killpg"):  # pragma: no branch - Windows has no process groups of this kind
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the second: macOS, if git alone has ended
            os.killpg(process.pid, signal.SIGKILL)
    else:  # pragma: no cover - Windows
        process.kill()


def blob_name(content: bytes, digits: int, kind: str = "blob") -> str:
    """Return the name that git gives to a file's content: SHA-1, or SHA-256 where the repository uses it."""
    algorithm = hashlib.sha1 if digits == 40 else hashlib.sha256
    return algorithm(f"{kind} {len(content)}\0".encode() + content).hexdigest()


def list_objects(git: Git, names: Iterable[str] | None = None) -> dict[str, tuple[str, int]]:
    """Return the kind and the size of these objects, or of all that the repository has, also in no commit.

    Raises:
        GitError: as `Git.run`, or an object is missing.
    """
    arguments = ("--batch-all-objects", "--unordered") if names is None else ()
    stdin = "".join(f"{name}\n" for name in names or ()).encode()
    output = git.text("cat-file", *arguments, "--batch-check=%(objectname) %(objecttype) %(objectsize)", stdin=stdin)
    found = {}
    for line in output.splitlines():
        name, kind, *size = line.split(" ")
        if not size:
            raise GitError(f"object {name[:12]} is {kind}")
        found[name] = kind, int(size[0])
    return found


def read_objects(git: Git, sizes: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of objects of these sizes.

    Raises:
        GitError: as `Git.run`, or an object does not match its name.
    """
    remaining = list(sizes)
    while remaining:
        batch: list[str] = []
        size = 0
        while remaining and (not batch or size + sizes[remaining[-1]] <= BATCH_BYTES):
            batch.append(remaining.pop())
            size += sizes[batch[-1]] + 100  # and the line before it
        output, position = git.run("cat-file", "--batch", stdin="".join(f"{name}\n" for name in batch).encode()), 0
        for name in batch:
            header, _, _ = output[position : position + 200].partition(b"\n")
            start = position + len(header) + 1
            content = output[start : start + sizes[name]]
            if blob_name(content, len(name), header.split(b" ")[1].decode()) != name:
                raise GitError(f"object {name[:12]} does not match its name")
            yield name, content
            position = start + sizes[name] + 1

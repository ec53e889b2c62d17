"""Git as a witness of the key directory: what was committed, by whom, and whether it is still there."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from verifier.rotation.git import Git, GitError, find_repository, names_by_commit
from verifier.rotation.history import digest, load, merged_lines
from verifier.storage.snapshot import MAX_KEY_FILE_BYTES, read_file

MAX_COMMITS = 10_000
MAX_LOG_BYTES = 33_554_432
LOG = "history.jsonl"
# File names of private keys; a public key of this directory is a .json file.
PRIVATE_SUFFIXES = (".pem", ".key", ".p8", ".pk8", ".p12", ".pfx", ".der")
PRIVATE_TEXT = r'-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----|"(d|p|q|dp|dq|qi|oth|k)"[[:space:]]*:'
HARMLESS = frozenset({".gitignore", ".lock", "README.md"})  # files of private/ that contain no key
_GPG = r"^gpg\.(.*\.)?program$"
_MARKER = re.compile(rb"^(<{7}|\|{7}|={7}|>{7})( |$)")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that changed the history."""

    id: str
    signature: str  # git's %G?: G good, N none, B bad, U unknown validity, E cannot be checked, ...
    at: str  # when it was committed, as ISO 8601
    author: str
    signer: str

    @property
    def signed(self) -> bool:
        """Whether a key that this machine trusts signed it."""
        return self.signature == "G"


@dataclass(frozen=True, slots=True)
class Witness:
    """What git reports about a key directory."""

    present: bool = False
    commit: str = ""  # HEAD
    uncommitted: tuple[str, ...] = ()  # paths below the key directory that differ from HEAD
    lines: tuple[Commit | None, ...] = ()  # the commit that added each line of the history
    rewritten: tuple[str, ...] = ()  # committed lines that are no longer in the history
    private: tuple[str, ...] = ()  # private keys that are tracked or were committed
    problems: tuple[str, ...] = ()  # why git could not be queried

    @property
    def clean(self) -> bool | None:
        """Whether the working tree is as committed; None if there is no answer."""
        return None if not self.present or self.problems else not self.uncommitted


def query(folder: Path, log: bytes) -> Witness:
    """Query git about a key directory whose history has this content."""
    if find_repository(folder) is None:
        return Witness()
    git = Git(folder)
    try:
        git.run("rev-parse", "--git-dir")
        private = _private(git)
        if not git.text("rev-parse", "--verify", "--quiet", "HEAD^{commit}", expected=(0, 1)):
            names = tuple(name for name, _ in _files(folder))
            return Witness(True, uncommitted=names, lines=(None,) * len(log.splitlines()), private=private)
        head, prefix = git.text("rev-parse", "HEAD").strip(), git.text("rev-parse", "--show-prefix").rstrip("\n")
        problems = _blind_spots(git)
        commits = _commits(git, signatures=not any("gpg" in problem for problem in problems))
        lines, rewritten = _compare(git, prefix, commits, log)
        return Witness(True, head, _uncommitted(git, folder, prefix), lines, rewritten, private, problems)
    except GitError as exc:
        return Witness(True, problems=(str(exc),))


def _blind_spots(git: Git) -> tuple[str, ...]:
    found = []
    if git.text("rev-parse", "--is-shallow-repository").strip() == "true":
        found.append("the clone is shallow, so that earlier commits are missing (expected: git fetch --unshallow)")
    for name in git.text("config", "--local", "--name-only", "--get-regexp", _GPG, expected=(0, 1)).splitlines():
        found.append(f"the repository's configuration replaces the program that checks signatures ({name})")
    return tuple(found)


def _private(git: Git) -> tuple[str, ...]:
    """Return where a private key is tracked, or was committed on any branch."""
    found = [f"{name} is tracked" for name in git.text("ls-files", "-z", "--", ".").split("\0") if _is_private(name)]
    common = ("log", "--all", "--full-history", "-m", "--no-renames", "--no-ext-diff", "--no-textconv", "--relative",
              "-z", "--name-only", "--format=%x01%H")  # fmt: skip
    heads = ("HEAD",) if git.text("rev-parse", "--verify", "--quiet", "HEAD", expected=(0, 1)) else ()
    by_name = git.text(*common, "--diff-filter=AM", *heads, "--", ".")
    by_content = git.text(*common, "--text", "-G", PRIVATE_TEXT, *heads, "--", ".")
    commits = {name: commit for commit, name in names_by_commit(by_name) if _is_private(name)}
    commits |= {name: commit for commit, name in names_by_commit(by_content)}
    return (*found, *(f"commit {commit[:12]} contains {name}" for name, commit in sorted(commits.items())))


def _is_private(name: str) -> bool:
    path = PurePosixPath(name)
    inside = path.parts[:1] == ("private",) and path.name not in HARMLESS
    return inside or path.suffix.lower() in PRIVATE_SUFFIXES


def _commits(git: Git, *, signatures: bool) -> list[Commit]:
    """Return every commit in the ancestry of HEAD that changed the history, oldest first."""
    state, signer = ("%G?", "%GS") if signatures else ("E", "")
    output = git.text(
        "log", "--full-history", "--topo-order", "--reverse", "-z", "--no-mailmap", f"--max-count={MAX_COMMITS + 1}",
        f"--format=%H%n{state}%n%cI%n%an <%ae>%n{signer}", "HEAD", "--", LOG,
    )  # fmt: skip
    found = [Commit(*entry.split("\n", 4)) for entry in output.split("\0") if entry]
    if len(found) > MAX_COMMITS:
        raise GitError(f"more than {MAX_COMMITS} commits changed the history")
    return found


def _compare(
    git: Git, prefix: str, commits: list[Commit], log: bytes
) -> tuple[tuple[Commit | None, ...], tuple[str, ...]]:
    """Return the commit that added each line, and the committed lines that the history has lost."""
    here = log.splitlines()
    kept = {*here, *merged_lines(load(log).events)}
    added: list[Commit | None] = [None] * len(here)
    lost: dict[bytes, Commit] = {}
    versions = _versions(git, prefix, commits, here)
    for commit in commits:
        version = versions.get(commit.id, 0)
        lines = here[:version] if isinstance(version, int) else version
        for number, line in enumerate(lines[: len(here)]):
            if added[number] is None and here[number] == line:
                added[number] = commit
        for line in [] if isinstance(version, int) else version:
            if line not in kept and not _MARKER.match(line):
                lost.setdefault(line, commit)
    return tuple(added), tuple(_describe(line, commit) for line, commit in lost.items())


def _describe(line: bytes, commit: Commit) -> str:
    return f"commit {commit.id[:12]} ({commit.author}) contains a line that is gone (digest {digest(line)[:12]})"


def _versions(git: Git, prefix: str, commits: list[Commit], here: list[bytes]) -> dict[str, int | list[bytes]]:
    """Return the lines of each committed history, or only their number if it is a prefix of the file."""
    asked = "".join(f"{commit.id}:{prefix}{LOG}\n" for commit in commits).encode()
    answers = git.run("cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", stdin=asked)
    blobs: dict[str, tuple[str, int]] = {}
    for commit, answer in zip(commits, answers.decode().splitlines(), strict=True):
        if " blob " in answer:  # not where the file was deleted, or a link
            name, _, size = answer.rsplit(" ", 2)
            blobs[commit.id] = name, int(size)
    prefixes = _prefixes(here, set(blobs.values()))
    content = _read_blobs(git, [name for name, _ in dict.fromkeys(blobs.values()) if name not in prefixes])
    return {
        commit: prefixes[name] if name in prefixes else content[name].splitlines()
        for commit, (name, _) in blobs.items()
    }


def _prefixes(here: list[bytes], blobs: set[tuple[str, int]]) -> dict[str, int]:
    """Return how many lines each blob has that is a prefix of the history; without reading one."""
    text = b"".join(line + b"\n" for line in here)
    lines_by_size, size = {0: 0}, 0
    for number, line in enumerate(here, start=1):
        size += len(line) + 1
        lines_by_size[size] = number
    return {
        name: lines_by_size[size]
        for name, size in blobs
        if size in lines_by_size and _blob_name(text[:size], len(name)) == name
    }


def _blob_name(content: bytes, digits: int) -> str:
    """Return the name that git gives to a file's content: SHA-1, or SHA-256 where the repository uses it."""
    kind = hashlib.sha1 if digits == 40 else hashlib.sha256
    return kind(b"blob %d\0" % len(content) + content).hexdigest()


def _read_blobs(git: Git, names: list[str]) -> dict[str, bytes]:
    output = git.run("cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
    found, position = {}, 0
    for name in names:
        header, _, _ = output[position : position + 200].partition(b"\n")
        start = position + len(header) + 1
        size = int(header.split(b" ")[2])
        found[name] = output[start : start + size]
        position = start + size + 1
    return found


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return the files that decide which key is trusted, by their path below the key directory."""
    public = sorted((folder / "public").glob("*")) if (folder / "public").is_dir() else []
    return [(path.relative_to(folder).as_posix(), path) for path in (*public, folder / LOG) if path.is_file()]


def _uncommitted(git: Git, folder: Path, prefix: str) -> tuple[str, ...]:
    """Return what differs from HEAD; compared byte by byte, because an index can be set to overlook a file."""
    tree = {}
    for entry in git.text("ls-tree", "-r", "-z", "HEAD", "--", ".").split("\0"):
        if entry:
            kind, name = entry.split("\t", 1)
            tree[name] = kind.split(" ")[2]
    here = dict(_files(folder))
    found = {name for name in tree if name not in here and (name.startswith("public/") or name == LOG)}
    found |= {name for name, path in here.items() if not _is_blob(path, tree.get(name))}
    entries = iter(git.text("status", "--porcelain", "-z", "--untracked-files=all", "--", ".").split("\0"))
    for entry in entries:
        names = [entry[3:], next(entries)] if entry[:1] in ("R", "C") else [entry[3:]]
        found |= {name.removeprefix(prefix) for name in names if name}
    return tuple(sorted(name for name in found if not name.startswith("private/")))


def _is_blob(path: Path, blob: str | None) -> bool:
    """Return whether a file has the content of a blob, apart from line ends."""
    if blob is None:
        return False
    content = read_file(path, MAX_KEY_FILE_BYTES if path.name != LOG else MAX_LOG_BYTES)
    return blob in (_blob_name(content, len(blob)), _blob_name(content.replace(b"\r\n", b"\n"), len(blob)))

"""Git as a witness of the key directory: what was committed, by whom, and whether it is still there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from verifier.rotation import leaks
from verifier.rotation.git import Git, GitError, blob_name, find_repositories, list_objects, read_objects
from verifier.rotation.history import digest, load, merged_events
from verifier.rotation.markers import is_marker
from verifier.storage.snapshot import read_file

MAX_COMMITS = 10_000
MAX_LOG_BYTES = 33_554_432
LOG = "history.jsonl"
# File names of private keys; a public key of this directory is a .json file.
PRIVATE_SUFFIXES = (".pem", ".key", ".p8", ".pk8", ".p12", ".pfx", ".der")
HARMLESS = frozenset({".gitignore", ".lock", "README.md"})  # files of private/ that contain no key
SIGNATURES = {
    "G": "signed by a key that is trusted here",
    "N": "not signed",
    "B": "badly signed: the signature is of another content",
    "U": "signed by a key that is not trusted here",
    "X": "signed, and the signature has expired",
    "Y": "signed by a key that has expired",
    "R": "signed by a key that was revoked",
    "E": "signed by a key that is not known here, so that the signature cannot be checked",
}
_LINK = " (a link: commit what it leads to in its place)"
_GPG = r"^gpg\.(.*\.)?program$"


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that changed the history."""

    id: str
    signature: str  # git's %G?: G good, N none, B bad, U unknown validity, E cannot be checked, ...
    at: str  # when it was committed, as ISO 8601
    author: str
    signer: str

    @property
    def time(self) -> int:
        """When it was committed, in seconds since 1970."""
        return parse_time(self.at)

    @property
    def signature_words(self) -> str:
        """Whether it is signed, in words."""
        return SIGNATURES.get(self.signature, f"signed, with a result that git calls {self.signature!r}")

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
    unsearched: str = ""  # why the rest of the repository was not searched for them
    problems: tuple[str, ...] = ()  # why git could not be queried

    @property
    def clean(self) -> bool | None:
        """Whether the working tree is as committed; None if there is no answer."""
        return None if not self.present or self.problems else not self.uncommitted


def parse_time(text: str) -> int:
    """Return the seconds since 1970 of a date of git; 0 for one that no clock shows."""
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp()))
    except (ValueError, OverflowError):
        return 0


def query(folder: Path, log: bytes, applications: Path | None = None) -> Witness:
    """Query git about a key directory whose history has this content, and whether the applications are committed."""
    real = folder.resolve()
    repositories = find_repositories(real)
    if not repositories:
        return Witness(problems=tuple(_others(folder, None)))
    top = repositories[0]
    git, prefix = Git(top), "" if real == top else f"{real.relative_to(top).as_posix()}/"
    try:
        index = _entries(git.text("ls-files", "-z", "--stage", "--", prefix or "."), prefix)
        with git.objects() as (clean, head):
            problems = (*_blind_spots(git), *_others(folder, top))
            private = _private(clean, prefix, [name for name, _ in index])
            elsewhere, unsearched = _elsewhere(clean, prefix, folder, log)
            private += elsewhere
            if not head:
                names = tuple(name for name, _ in _files(folder))
                none: tuple[Commit | None, ...] = (None,) * len(log.splitlines())
                return Witness(True, "", names, none, (), private, unsearched, problems)
            lines, rewritten = _compare(clean, prefix, _commits(clean, prefix), log)
            uncommitted = _uncommitted(git, clean, folder, prefix, index)
            if applications is not None and not _has_committed(git, clean, top, applications.resolve()):
                uncommitted += (str(applications),)
            return Witness(True, head, uncommitted, lines, rewritten, private, unsearched, problems)
    except GitError as exc:
        return Witness(True, problems=(str(exc),))


def _entries(output: str, prefix: str) -> list[tuple[str, list[str]]]:
    """Parse `ls-files --stage` and `ls-tree`: each path below the key directory, and the fields before it."""
    entries = [entry.split("\t", 1) for entry in output.split("\0") if entry]
    return [(name.removeprefix(prefix), fields.split(" ")) for fields, name in entries]


def _blind_spots(git: Git) -> Iterator[str]:
    if git.text("rev-parse", "--is-shallow-repository").strip() == "true":
        yield "the clone is shallow, so that earlier commits are missing"
    settings = git.text("config", "--show-scope", "--includes", "--name-only", "--get-regexp", _GPG, expected=(0, 1))
    for scope, name in (line.split("\t", 1) for line in settings.splitlines()):
        if scope in ("local", "worktree"):
            yield f"the repository's configuration replaces the program that checks signatures ({name}); it was not run"


def _others(folder: Path, top: Path | None) -> Iterator[str]:
    """Find repositories that contain this directory and are not the one that was queried, for example behind a link."""
    for path in dict.fromkeys((Path(os.path.abspath(folder)), folder.resolve())):
        for other in find_repositories(path):
            if other.resolve() == top:
                continue
            git, name = Git(other), (path / LOG).relative_to(other).as_posix()
            try:
                with git.objects() as (clean, _):
                    found = clean.text("log", "--all", "--max-count=1", "--format=%H", "--", name)
            except GitError as exc:
                yield f"{other}: {exc}"
            else:
                if found:
                    yield f"{other} has commits of this directory too (expected: only {top or 'there'})"


def _private(git: Git, prefix: str, tracked: list[str]) -> tuple[str, ...]:
    """Return where a private key is tracked, or was committed on any branch."""
    found = [f"{name} is tracked" for name in tracked if _is_private(name)]
    versions: dict[str, dict[str, str]] = {}  # the first commit of each path, by blob
    for commit, blob, name in git.changes("--", prefix or "."):
        versions.setdefault(blob, {})[name.removeprefix(prefix)] = commit
    commits = {name: commit for places in versions.values() for name, commit in places.items() if _is_private(name)}
    # The history is in `_elsewhere`, because each of its versions contains those before it.
    sizes = {blob: size for blob, (_, size) in list_objects(git, versions).items() if size <= leaks.MAX_BYTES}
    for blob, content in read_objects(git, {b: size for b, size in sizes.items() if LOG not in versions[b]}):
        if leaks.is_private_key(content):
            commits |= versions[blob]
    return (*found, *(f"commit {commit[:12]} contains {name}" for name, commit in sorted(commits.items())))


def _elsewhere(git: Git, prefix: str, folder: Path, log: bytes) -> tuple[tuple[str, ...], str]:
    """Return where else private keys of this directory were committed, and why that is not known."""
    kids = {event.kid for event in merged_events(load(log).events)}
    kids |= {path.stem for path in (folder / "public").glob("*.json")}
    try:
        return tuple(leaks.search(git, prefix, kids)), ""
    except GitError as exc:
        return (), str(exc)


def _is_private(name: str) -> bool:
    path = PurePosixPath(name)
    inside = path.parts[:1] == ("private",) and path.name not in HARMLESS
    return inside or path.suffix.lower() in PRIVATE_SUFFIXES


def _commits(git: Git, prefix: str) -> list[Commit]:
    """Return every commit in the ancestry of HEAD that changed the history, oldest first."""
    output = git.text(
        "log", "--full-history", "--topo-order", "--reverse", "-z", "--no-mailmap", f"--max-count={MAX_COMMITS + 1}",
        "--format=%H%n%G?%n%cI%n%an <%ae>%n%GS", "HEAD", "--", f"{prefix}{LOG}",
    )  # fmt: skip
    found = [Commit(*entry.split("\n", 4)) for entry in output.split("\0") if entry]
    if len(found) > MAX_COMMITS:
        raise GitError(f"more than {MAX_COMMITS} commits changed the history")
    # Without a list of signers, git takes a commit that is signed with SSH for one that is not signed.
    unsigned = list_objects(git, [commit.id for commit in found if commit.signature == "N"])
    contents = read_objects(git, {id_: size for id_, (_, size) in unsigned.items()})
    signed = {id_ for id_, content in contents if b"\ngpgsig" in content.partition(b"\n\n")[0]}
    return [replace(commit, signature="E") if commit.id in signed else commit for commit in found]


def _compare(
    git: Git, prefix: str, commits: list[Commit], log: bytes
) -> tuple[tuple[Commit | None, ...], tuple[str, ...]]:
    """Return the commit that added each line, and the committed lines that the history has lost."""
    here = log.splitlines()
    kept = {*here, *(text.encode() for event in merged_events(load(log).events) for text in event.merged)}
    added: list[Commit | None] = [None] * len(here)
    lost: dict[bytes, tuple[int, Commit]] = {}
    for commit, lines in _versions(git, prefix, commits, here):
        for number, line in enumerate(lines):
            if number < len(here) and added[number] is None and here[number] == line:
                added[number] = commit
            if line not in kept and not is_marker(line):
                lost.setdefault(line, (number + 1, commit))
    if not lost:
        return tuple(added), ()
    # The first that was changed or removed; those after it have another digest because of it.
    line, (number, commit) = min(lost.items(), key=lambda item: item[1][0])
    more = f", and {len(lost) - 1} more after it" if len(lost) > 1 else ""
    rewritten = (
        f"commit {commit.id[:12]} ({commit.author}) contains line {number} as it is no longer in the history "
        f"(digest {digest(line)[:12]}){more}"
    )
    return tuple(added), (rewritten,)


def _versions(git: Git, prefix: str, commits: list[Commit], here: list[bytes]) -> Iterator[tuple[Commit, list[bytes]]]:
    """Yield the lines of each committed history; read only if it is no prefix of the file."""
    queries = "".join(f"{commit.id}:{prefix}{LOG}\n" for commit in commits).encode()
    answers = git.run("cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)", stdin=queries)
    blobs: list[tuple[Commit, str, int]] = []
    for commit, answer in zip(commits, answers.decode().splitlines(), strict=True):
        if " blob " in answer:  # not where the file was deleted, or a link
            name, _, size = answer.rsplit(" ", 2)
            blobs.append((commit, name, int(size)))
    prefixes = _prefixes(here, {(name, size) for _, name, size in blobs})
    content = dict(read_objects(git, {name: size for _, name, size in blobs if name not in prefixes}))
    for commit, name, _ in blobs:
        yield commit, here[: prefixes[name]] if name in prefixes else content[name].splitlines()


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
        if size in lines_by_size and blob_name(text[:size], len(name)) == name
    }


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Return the files that decide which key is trusted, by their path below the key directory."""
    public = sorted((folder / "public").glob("*")) if (folder / "public").is_dir() else []
    return [(path.relative_to(folder).as_posix(), path) for path in (*public, folder / LOG) if path.is_file()]


def _uncommitted(
    git: Git, clean: Git, folder: Path, prefix: str, index: list[tuple[str, list[str]]]
) -> tuple[str, ...]:
    """Return what differs from HEAD; compared byte by byte, because an index can be set to overlook a file."""
    entries = _entries(clean.text("ls-tree", "-r", "-z", "HEAD", "--", prefix or "."), prefix)
    tree = {name: (mode, blob) for name, (mode, _, blob) in entries}
    found = {name for name, (mode, blob) in tree.items() if not _is_committed(folder / name, mode, blob)}
    found |= {
        name + _LINK for name, (mode, _) in tree.items() if mode == "120000" and _leads_away(folder, folder / name)
    }
    found |= {name for name, _ in _files(folder) if name not in tree}
    # The index, because the next commit is made of it.
    found |= {name for name, (mode, blob, stage) in index if (mode, blob) != tree.get(name) or stage != "0"}
    found |= tree.keys() - {name for name, _ in index}
    others = git.text("ls-files", "-z", "--others", "--exclude-standard", "--", prefix or ".").split("\0")
    found |= {name.removeprefix(prefix) for name in others if name}
    return tuple(sorted(name for name in found if not name.startswith("private/")))


def _has_committed(git: Git, clean: Git, top: Path, path: Path) -> bool:
    """Return whether a file is as committed, or is none that is to be committed in this repository."""
    if not path.is_relative_to(top):
        return True
    name = path.relative_to(top).as_posix()
    for _, (mode, _, blob) in _entries(clean.text("ls-tree", "-z", "HEAD", "--", name), ""):
        return _is_committed(path, mode, blob)
    return not git.text("ls-files", "-z", "--others", "--cached", "--exclude-standard", "--", name)


def _leads_away(folder: Path, path: Path) -> bool:
    """Return whether a link leads to a folder, or out of the key directory, so that what is read is not committed."""
    target = path.resolve()
    return path.is_dir() or not target.is_relative_to(folder.resolve())


def _is_committed(path: Path, mode: str, blob: str) -> bool:
    """Return whether a file has the content of a blob, apart from line ends."""
    if mode == "160000":  # another repository; what it contains is not committed here
        return True
    try:
        if (mode == "120000") != path.is_symlink():
            return False
        if mode == "120000":
            return blob_name(os.fsencode(os.readlink(path)), len(blob)) == blob
        content = read_file(path, MAX_LOG_BYTES)
    except OSError:
        return False
    return blob in (blob_name(content, len(blob)), blob_name(content.replace(b"\r\n", b"\n"), len(blob)))

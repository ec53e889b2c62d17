"""When a command must not plan: files that cannot be used, a history that is not valid, or both in conflict."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from verifier.core.keyring import PublicKey
from verifier.core.times import utc
from verifier.errors import UnsafeOperationError
from verifier.rotation import history
from verifier.rotation.history import Event
from verifier.rotation.markers import has_conflict_markers
from verifier.rotation.violation import Violation
from verifier.storage.key_directory import KeyDirectory
from verifier.storage.snapshot import MAX_KEY_FILE_BYTES, read_file


def obstacles(directory: KeyDirectory, path: Path, content: bytes | None, now: int) -> list[Violation]:
    """Return everything that keeps a command from planning on this directory and the content of its history.

    The content is None if the history cannot be read, which is an obstacle of its own.
    """
    found = [Violation(problem, _remedy(Path(problem.partition(": ")[0]))) for problem in directory.problems]
    if content is None:
        return found
    log = history.load(content)
    if not log.problems:
        return [*found, *_contradictions(directory, history.replay(log.events), now)]
    more = f" and {len(log.problems) - 1} more" if len(log.problems) > 1 else ""
    remedy = "restore the file from version control"
    if has_conflict_markers(content) or "does not continue" in log.problems[0]:
        remedy = f"after a merge of two branches: verifier keys merge; otherwise {remedy}"
    return [*found, Violation(f"{path}: {log.problems[0]}{more}", remedy)]


def restoring(path: Path) -> str:
    """Return the command that restores a file from version control."""
    return f"git checkout -- {shlex.quote(str(path))}"


def _remedy(path: Path) -> str:
    try:
        if has_conflict_markers(read_file(path, MAX_KEY_FILE_BYTES)):
            return f"{path} has conflict markers: verifier keys merge"
    except OSError:
        pass
    return f"repair {path} or restore it ({restoring(path)})"


def _contradictions(directory: KeyDirectory, recorded: Mapping[str, Event], now: int) -> Iterator[Violation]:
    """Find where the history and the files disagree about which key is trusted."""
    for kid, last in recorded.items():
        path, key = directory.folder / f"{kid}.json", directory.keyring.find(kid)
        restore = f"restore the file ({restoring(path)})"
        again = f"verifier keys revoke --kid {kid[:8]} --reason '...'"
        if key is None:
            if not path.exists() and not last.has_ended(now):
                found = f"{path}: is missing, but the history records a key that has not ended"
                yield Violation(found, f"{restore}, or give the key up: {again}")
        elif last.revoked_at is not None and key.revoked_at is None:
            found = f"{path}: is not revoked, but the history records its revocation of {utc(last.revoked_at)}"
            yield Violation(found, f"{restore}, or revoke it again: {again}")
        elif differing := _extended(key, last):
            repair = f"{restore}; if the change is intended, record it: verifier keys merge"
            yield Violation(f"{path}: {differing}", repair)
    for kid in directory.keyring.keys.keys() - recorded.keys():
        yield Violation(
            f"{directory.folder / f'{kid}.json'}: is not in the history",
            "restore the history if its lines were lost; remove the file if it is not yours; otherwise record it: "
            "verifier keys merge",
        )


def _extended(key: PublicKey, last: Event) -> str:
    """Return how a file trusts its key at other times than the history records; an earlier end is no such case."""
    if last.exp is not None and (key.exp is None or key.exp > last.exp):
        return f"exp is {utc(key.exp) if key.exp else 'absent'}, but the history records {utc(last.exp)}"
    if last.nbf is not None and key.nbf != last.nbf:
        return f"nbf is {utc(key.nbf)}, but the history records {utc(last.nbf)}"
    return ""


def require_later_than(content: bytes, now: int, path: Path, *, revoking: bool = False) -> None:
    """Refuse to plan by a clock that is behind the last line of the history.

    Raises:
        UnsafeOperationError: the clock is behind.
    """
    last = last_time(content)
    emergency = "; --force revokes as of the last line" if revoking else ""
    if now < last:
        raise UnsafeOperationError(
            f"the clock ({utc(now)}) is behind the last line of {path} ({utc(last)}); nothing was changed",
            hint="correct the clock (NTP); if the line is wrong because another machine's clock was ahead, "
            f"wait until its time or revert the change in version control{emergency}",
        )


def last_time(content: bytes) -> int:
    """Return the latest time that the history records: the true time is not before it."""
    return max((line.at for line in history.load(content).lines if line is not None), default=0)


def revoked_kids(content: bytes) -> set[str]:
    """Return every key that was ever revoked, also those whose files were removed since."""
    events = history.merged_events(history.load(content).events)
    return {event.kid for event in events if event.revokes}

"""`verifier keys merge`: repair a key directory after a merge of two branches that both changed keys."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from verifier.cli.changes import NO_CURRENT_KEY, open_keystore, print_events, warn_of_notes
from verifier.cli.options import change_options, force_option
from verifier.cli.output import warn
from verifier.core.times import utc
from verifier.errors import ConfigError, KeyFileError
from verifier.rotation import history
from verifier.rotation import merge as merging
from verifier.rotation.history import Event
from verifier.rotation.plan import OverlapPolicy, pending_keys
from verifier.rotation.preconditions import obstacles, require_later_than
from verifier.signing.keystore import Keystore
from verifier.signing.private_key import unusable_private_keys
from verifier.signing.recovery import render
from verifier.storage.journal import FileChange
from verifier.storage.key_directory import find_public_key
from verifier.storage.snapshot import snapshot


@click.command("merge")
@force_option("Give a key up that signs and whose file is lost on every branch.")
@change_options
def merge(force: bool, window: OverlapPolicy, as_json: bool, keys: Path) -> None:
    """Repair a key directory after a merge of two branches that both changed keys.

    Keeps the history of this branch, and records the lines and the keys of the other branch in one more line each.
    """
    store = open_keystore(keys)
    with store.transaction():
        warn_of_notes(store)
        store.public.require_readable()
        content, now = store.read_history(), store.now
        try:
            branches = merging.read_branches(content)
        except ConfigError as exc:
            raise ConfigError(f"{store.history}: {exc}; nothing was changed", exc.hint) from exc
        require_later_than(b"".join(branch.content for branch in branches), now, store.history)
        files = snapshot(store.public.folder)
        # Of one branch alone, nothing was removed by a merge: what is missing is named at the end.
        signing = set() if force or len(branches) == 1 else merging.signing_keys(branches, now)
        _require_files(store, signing, files)
        try:
            members = merging.resolve(files, branches, now, window)
        except KeyFileError as exc:
            hint = "repair the file or restore it from version control, then run verifier keys merge again"
            raise KeyFileError(f"{store.public.folder / str(exc)}; nothing was changed", hint) from exc
        events = merging.events(branches, members, now=now)
        changes = []
        for name, data in files.items():
            held, key = members[name.removesuffix(".json")], find_public_key(name, data)
            before = data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data
            after = None if held is None else render(held)
            # A file that contains the same already keeps its formatting.
            if after != before and (key is None or key.members != held):
                changes.append(FileChange(f"public/{name}", before, after))
        main = branches[0]
        if events or changes or main.content != content:
            store.merge(changes, events, main.content, now=now)
        remaining = [*_describe_moved(events, main), *_describe_remaining(store, events)]
    _print_outcome(store, events, changes, as_json)
    for text in remaining:
        warn(text)


def _require_files(store: Keystore, signing: set[str], files: Mapping[str, object]) -> None:
    """Refuse to remove a key that signs, because git removes its file without a conflict if a branch had cancelled it.

    Raises:
        ConfigError: the file of a key is missing.
    """
    for kid in sorted(signing):
        path = store.public.folder / f"{kid}.json"
        if path.name not in files:
            file = shlex.quote(str(path))
            commit = f'"$(git log --all --full-history --diff-filter=AM -1 --format=%H -- {file})"'
            raise ConfigError(
                f"{path}: is missing, but its key signs on one of the branches; nothing was changed",
                hint=f"restore the file, then run verifier keys merge again: git checkout {commit} -- {file}; "
                "where no commit has it, give the key up: verifier keys merge --force",
            )


def _describe_moved(events: list[Event], main: merging.Branch) -> Iterator[str]:
    """Yield the keys that end at another time than on this branch."""
    recorded = history.replay(main.events)
    for event in events:
        before = recorded.get(event.kid)
        if before is not None and event.new != history.REMOVED and before.exp != event.exp:
            was, now = ("no expiry" if exp is None else utc(exp) for exp in (before.exp, event.exp))
            yield f"the end of {event.kid} moves to {now} (on this branch: {was})"


def _describe_remaining(store: Keystore, events: list[Event]) -> Iterator[str]:
    """Yield what the merge leaves to be done."""
    keyring, now = store.public.keyring, store.now
    pending, current = pending_keys(keyring, now), keyring.current(now)
    if len(pending) > 1:
        kids = " or ".join(f"verifier keys cancel --kid {key.kid[:8]}" for key in pending)
        yield f"{len(pending)} keys are pending; withdraw all but one: {kids}"
    yield from (text for _, text in unusable_private_keys(keyring, store.private, now))
    for obstacle in obstacles(store.public, store.history, store.read_history(), now):
        yield f"{obstacle.found}; {obstacle.remediation}"
    if current is None:
        yield NO_CURRENT_KEY
    elif any(event.kid == current.kid and event.old == "none" for event in events):
        yield f"{current.kid} signs now and is new to this branch: deploy {store.public.folder} to every replica first"


def _print_outcome(store: Keystore, events: list[Event], changes: list[FileChange], as_json: bool) -> None:
    """Print the lines that were added, and the files that were corrected because the history had these lines before."""
    kids = {event.kid for event in events}
    corrected = [change for change in changes if Path(change.path).stem not in kids]
    if events or as_json or not corrected:
        print_events(store, events, as_json)
    for change in corrected:
        done = "removed" if change.after is None else "written"
        warn(f"{store.folder / change.path} was {done} again, because the history records it so")

"""What the commands that change keys have in common: the checks before, the transaction, the output after."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from verifier.cli.options import print_json
from verifier.cli.output import echo, expect_input, warn
from verifier.core.encoding import is_utf8_encodable
from verifier.core.keyring import Keyring
from verifier.core.times import utc, when
from verifier.errors import ConfigError
from verifier.rotation import preconditions
from verifier.rotation.history import Event
from verifier.rotation.violation import Violation
from verifier.signing.keystore import Keystore
from verifier.storage.snapshot import read_file, secret_of_file

NO_CURRENT_KEY = "no key is current: every sign-in is rejected; verifier keys audit names the remedy"
MAX_INPUT_BYTES = 1_048_576
MAX_TEXT = 1000  # because a key file of more than 64 KiB is not read


def open_keystore(folder: Path, *, create: bool = False) -> Keystore:
    """Return a key directory, which need not exist if `create` is set.

    Raises:
        ConfigError: there is none.
    """
    store = Keystore(folder)
    if store.public.is_nested or not (create or store.public.folder.is_dir()):
        raise ConfigError(f"{store.public.folder}: no such folder", store.public.missing_hint)
    return store


@contextmanager
def begin(
    folder: Path, *, create: bool = False, revoking: bool = False, force: bool = False
) -> Iterator[tuple[Keystore, Keyring, int]]:
    """Lock a key directory for one change; yield it, its keyring and the time.

    A revocation proceeds beside files that cannot be used, and reports them.

    Raises:
        ConfigError: there is no key directory, or its files or history cannot be used.
        UnsafeOperationError: the clock is behind the history, or another process holds the lock.
    """
    store = open_keystore(folder, create=create)
    with store.transaction(revoking=revoking) as keyring:
        warn_of_notes(store)
        store.public.require_readable()
        content, found = read_history(store, revoking=revoking)
        found += preconditions.obstacles(store.public, store.history, content, store.now)
        if found and not revoking:
            hints = list(dict.fromkeys(obstacle.remediation for obstacle in found))
            raise ConfigError("; ".join(o.found for o in found) + "; nothing was changed", hint="; ".join(hints))
        for obstacle in found:
            warn(f"{obstacle.found}; not taken into account ({obstacle.remediation})")
        if revoking and force:
            assume_last_time(store, content)
        preconditions.require_later_than(content or b"", store.now, store.history, revoking=revoking)
        yield store, keyring, store.now
        if store.public.keyring.current(store.now) is None:
            warn(NO_CURRENT_KEY)
        warn_of_notes(store)


def warn_of_notes(store: Keystore) -> None:
    """Print, once, what the transaction found: at once, because the command may fail afterwards."""
    while store.notes:
        warn(store.notes.pop(0))


def assume_last_time(store: Keystore, content: bytes | None) -> None:
    """Go on as of the last line of a history that the clock is behind, because time does not run backwards there."""
    last = preconditions.last_time(content or b"")
    if store.now < last:
        warn(f"the clock ({utc(store.now)}) is behind the history; recorded as of its last line ({utc(last)})")
        store.assume(last)


def read_history(store: Keystore, *, revoking: bool) -> tuple[bytes | None, list[Violation]]:
    """Return the history; during a revocation None and the cause if it cannot be read."""
    try:
        return store.read_history(), []
    except ConfigError as exc:
        if not revoking:
            raise
        return None, [Violation(str(exc), exc.hint)]


def text_argument(option: str, text: str) -> str:
    """Return a text from the command line as UTF-8, because it is published.

    Raises:
        click.UsageError: it is too long.
    """
    if len(text) > MAX_TEXT:
        raise click.UsageError(f"{option} has {len(text)} characters (expected {MAX_TEXT} or fewer)")
    if is_utf8_encodable(text):
        return text
    # Not refused, because a revocation must not fail for the encoding of a terminal.
    escaped = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    warn(f"{option} is not UTF-8; recorded as {escaped!r}")
    return escaped


def read_input(file: str) -> bytes:
    """Return the content of a file or, for -, of standard input.

    Raises:
        ConfigError: it cannot be read, is empty, or is larger than 1 MiB.
    """
    name = "standard input" if file == "-" else file
    if file == "-":
        expect_input("the input")
        data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        if len(data) > MAX_INPUT_BYTES:
            raise ConfigError(f"{name} is larger than {MAX_INPUT_BYTES} bytes")
    else:
        try:
            data = read_file(file, MAX_INPUT_BYTES)
        except OSError as exc:
            raise ConfigError(f"{name}: cannot be read ({exc.strerror})") from exc
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):  # with nothing but a byte order mark, it is empty as well
        raise ConfigError(f"{name} is empty")
    return bytes(data)


def read_secret(file: str) -> str:
    """Return the secret in a file.

    Raises:
        ConfigError: as `read_input`, or the file is not UTF-8.
    """
    data = read_input(file)
    try:
        return secret_of_file(data)
    except ConfigError as exc:
        raise ConfigError(f"{file}: {exc}", exc.hint) from exc


def print_events(store: Keystore, events: list[Event], as_json: bool) -> None:
    """Print what a command changed, and what to commit.

    Raises:
        ConfigError: standard output cannot be written.
    """
    try:
        _print_events(store, events, as_json)
    except BrokenPipeError:
        raise
    except OSError as exc:
        text = f"{exc.filename}: cannot be written ({exc.strerror}); the change was made"
        raise ConfigError(text, hint="verifier keys list shows it") from exc


def _print_events(store: Keystore, events: list[Event], as_json: bool) -> None:
    if as_json:
        print_json({"events": [asdict(event) for event in events], "key_set_digest": store.public.keyring.digest})
        return
    for event in events:
        echo(f"{event.kid}  {_describe(event)}")
        private = store.private / f"{event.kid}.pem"
        if event.old == "none" and private.exists():
            echo(f"  private key in {private}")
    if events:
        echo(f"Commit {store.public.folder} and {store.history}, never {store.private}; have the diff reviewed.")
    else:
        echo("Nothing to do.")


def _describe(event: Event) -> str:
    reason = f" ({event.reason})" if event.reason else ""
    if event.new == "gone":
        return f"deleted{reason}"
    if event.new == "revoked":
        return f"revoked{reason}" if event.old != "revoked" else f"is revoked{reason}"
    parts = []
    if event.old == "none":
        parts.append("created")
    if event.old != event.new and event.nbf is not None and event.new in ("pending", "current"):
        parts.append(f"active {'from' if event.new == 'pending' else 'since'} {when(event.nbf)}")
    else:
        parts.append(event.new)
    if event.reason.startswith("private key"):
        parts.append(event.reason)
    elif event.exp is not None:
        parts.append(f"expires {when(event.exp)}")
    elif event.old == event.new:
        parts.append("no expiry")
    return ", ".join(parts)

"""The commands about applications: a secret changes without a rejected sign-in."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from verifier._version import __version__
from verifier.cli.changes import assume_last_time, read_history, warn_of_notes
from verifier.cli.help import CommandGroup
from verifier.cli.options import Command, Number, file_option, json_option, keys_option, option, print_json
from verifier.cli.output import echo
from verifier.core.applications import Application, Applications, Secret, parse
from verifier.core.times import when
from verifier.errors import ConfigError, UnsafeOperationError
from verifier.rotation import secret_changes
from verifier.rotation.events import user_name
from verifier.rotation.history import SecretEvent
from verifier.rotation.replicas import Uses, read_uses
from verifier.signing.keystore import Keystore
from verifier.storage import atomic
from verifier.storage.snapshot import MAX_APPLICATIONS_BYTES, MAX_SECRET_BYTES, read_file, secret_of_file

metrics_option = option(
    "--metrics",
    metavar="URL",
    help="Read from this metrics page (http://host:port/metrics) when each secret was last used.",
)


@click.group(cls=CommandGroup)
def applications() -> None:
    """The applications of the escs dashboard, and the digests of their secrets."""


def change_options(function: Command) -> Command:
    """Add the argument and the options of every command that changes an application."""
    return click.argument("application_id")(json_option(file_option(keys_option(function))))


@applications.command("add")
@change_options
def add(application_id: str, as_json: bool, path: Path, keys: Path) -> None:
    """Add APPLICATION_ID, or a second secret to it. The secret is prompted for, or read from standard input."""
    secret = _read_secret()
    with _locked(path, keys, missing_ok=True) as (before, store):
        changed = secret_changes.add_secret(before, application_id, secret)
        _write(path, store, "add", before, changed, application_id)
    _print_change(path, changed, application_id, as_json)


@applications.command("rotate-secret")
@metrics_option
@change_options
def rotate_secret(application_id: str, metrics: str | None, as_json: bool, path: Path, keys: Path) -> None:
    """Accept a second secret of APPLICATION_ID beside the first. It is prompted for, or read from standard input.

    Then enter it in the escs dashboard, and remove the old one when it is no longer used.
    """
    _find(_read(path), application_id)
    secret, uses = _read_secret(), read_uses(metrics) if metrics else None
    with _locked(path, keys) as (before, store):
        _find(before, application_id)
        changed = secret_changes.add_secret(before, application_id, secret)
        _write(path, store, "rotate-secret", before, changed, application_id)
    _print_change(path, changed, application_id, as_json, uses)
    if not as_json:
        click.echo(
            f"Enter the new secret in the escs dashboard. When secret 1 is no longer used:\n"
            f"  verifier applications remove-secret {application_id} --slot 1"
        )


@applications.command("remove-secret")
@option("--slot", type=Number(1, 2), required=True, help="As `list` shows it; 1 is the older.")
@change_options
def remove_secret(application_id: str, slot: int, as_json: bool, path: Path, keys: Path) -> None:
    """Remove one of two active secrets of APPLICATION_ID."""
    _read(path)  # because a lock file must not appear beside a file that does not exist
    with _locked(path, keys) as (before, store):
        changed = secret_changes.remove_secret(before, application_id, slot)
        _write(path, store, "remove-secret", before, changed, application_id)
    _print_change(path, changed, application_id, as_json)


@applications.command("list")
@metrics_option
@json_option
@file_option
def list_(metrics: str | None, as_json: bool, path: Path) -> None:
    """List every application and its secrets, by the beginning of their digests."""
    known = _read(path)
    uses = read_uses(metrics) if metrics else None
    _show([_row(known, application_id, uses) for application_id in known.by_id], as_json, uses)


def _read_secret() -> Secret:
    """Read a secret from the terminal, or as from a file from standard input."""
    if sys.stdin.isatty():
        return Secret.of(click.prompt("Secret key", hide_input=True, confirmation_prompt=True))
    data = sys.stdin.buffer.read(MAX_SECRET_BYTES + 1)
    if not data.strip():
        raise ConfigError(
            "standard input is empty (expected the secret key)", hint="verifier applications ... < secret"
        )
    if len(data) > MAX_SECRET_BYTES:
        raise ConfigError(f"the secret is longer than {MAX_SECRET_BYTES} bytes")
    return Secret.of(secret_of_file(data))


def _find(known: Applications, application_id: str) -> None:
    if application_id not in known.by_id:
        raise UnsafeOperationError(
            f"application {application_id} is unknown", hint=f"verifier applications add {application_id}"
        )


@contextmanager
def _locked(path: Path, keys: Path, *, missing_ok: bool = False) -> Iterator[tuple[Applications, Keystore | None]]:
    """Lock the file that a path leads to, because another link to it must have the same lock, and the key directory.

    Yields the applications of the file, and the key directory if there is one.
    """
    target = atomic.resolve(path)
    if path.is_symlink() and not target.parent.is_dir():
        raise ConfigError(f"{path}: its link leads to no folder ({target.parent})", "mount it, or correct the link")
    atomic.make_folder(target.parent, 0o755)
    store = Keystore(keys) if (keys / "public").is_dir() else None
    # As a revocation: a secret that leaked is removed whatever the state of the keys is.
    directory = store.transaction(revoking=True) if store else nullcontext()
    # Beside the file, which itself is replaced by every change.
    with atomic.locked(target.with_name(f".{target.name}.lock")), directory:
        if store:
            warn_of_notes(store)
            assume_last_time(store, read_history(store, revoking=True)[0])
        # Only now, because an interrupted change of the file may have been finished just before.
        yield _read(path, missing_ok=missing_ok), store
    if store:
        warn_of_notes(store)


def _read(path: Path, *, missing_ok: bool = False) -> Applications:
    """Return the applications of a file in which every entry is valid.

    Raises:
        ConfigError: the file cannot be read, or an entry is not valid.
    """
    if missing_ok and not path.exists():
        return Applications()
    try:
        found, problems = parse(read_file(path, MAX_APPLICATIONS_BYTES))
    except OSError as exc:
        hint = "repair or restore the file"
        if isinstance(exc, FileNotFoundError):
            linked = path.is_symlink()
            hint = (
                "mount what its link leads to"
                if linked
                else "correct the path, or create it: verifier applications add ID"
            )
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})", hint=hint) from exc
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}", hint="repair the file, or restore it from version control") from exc
    if problems:
        # Writing the file again would lose those entries.
        raise ConfigError(
            f"{path}: {'; '.join(problems)}", hint="repair the entry, or restore the file from version control"
        )
    return found


def _write(
    path: Path,
    store: Keystore | None,
    command: str,
    before: Applications,
    changed: Applications,
    application_id: str,
) -> None:
    """Write the file and, where the key directory is, the line of the change in the history."""
    # The mode stays as it was set for the user of the server.
    mode, content = path.stat().st_mode & 0o777 if path.exists() else 0o640, secret_changes.dump(changed)
    if store is None:
        atomic.write_atomic(path, content, mode)
    else:
        events = _events(command, application_id, before, changed, store.now)
        store.record(path, content, mode, events, f"applications {command}")


def _events(
    command: str, application_id: str, before: Applications, changed: Applications, now: int
) -> list[SecretEvent]:
    """Return the event of the secret that was added or removed; none where the other slot has the same secret."""
    unknown = Application(application_id, ())
    old, new = (known.by_id.get(application_id, unknown).secrets for known in (before, changed))
    return [
        SecretEvent(
            at=now,
            by=user_name(),
            command=command,
            application=application_id,
            slot=max(old, new, key=len).index(secret) + 1,
            sha256=secret.digest.hex()[:12],
            old="none" if secret in new else "active",
            new="active" if secret in new else "gone",
            weakness=secret.weakness,
            version=__version__,
        )
        for secret in set(old) ^ set(new)
    ]


def _print_change(
    path: Path, changed: Applications, application_id: str, as_json: bool, uses: Uses | None = None
) -> None:
    row = _row(changed, application_id, uses)
    if not as_json:
        count = len(row["secrets"])
        echo(f"{path}: application {application_id} has {count} active secret{'s' if count > 1 else ''}")
    _show([row], as_json, uses)


def _row(known: Applications, application_id: str, uses: Uses | None) -> dict[str, Any]:
    used = uses.last if uses else {}
    rows = [
        {
            "slot": slot,
            "sha256": secret.digest.hex()[:12],
            "weakness": secret.weakness,
            "last_used": used.get(("secret", f"{application_id} {slot}")) or None,
        }
        for slot, secret in enumerate(known.by_id[application_id].secrets, start=1)
    ]
    return {"id": application_id, "secrets": rows}


def _show(rows: list[dict[str, Any]], as_json: bool, uses: Uses | None) -> None:
    if as_json:
        print_json({"applications": rows, "replica_started_at": uses and uses.started_at})
        return
    for row in rows:
        for secret in row["secrets"]:
            weakness = f"  weak: {secret['weakness']}" if secret["weakness"] else ""
            used = f"  {_describe_use(uses, row['id'], secret['slot'])}" if uses else ""
            echo(f"{row['id']}  secret {secret['slot']}  sha256 {secret['sha256']}...{weakness}{used}")


def _describe_use(uses: Uses, application_id: str, slot: int) -> str:
    used = uses.last.get(("secret", f"{application_id} {slot}"))
    if used is None:
        return "not loaded by this replica"
    if used:
        return f"last used {when(used)}"
    if uses.started_at is None:
        return "never used since this replica started"
    started, today = (datetime.fromtimestamp(at).astimezone() for at in (uses.started_at, time.time()))
    date = "" if started.date() == today.date() else f"{started:%Y-%m-%d} "
    return f"never used since this replica started at {date}{started:%H:%M}"

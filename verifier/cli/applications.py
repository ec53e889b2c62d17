"""The commands about applications: a secret changes without one refused player."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verifier.cli.options import file_option, json_option
from verifier.core.applications import Secret
from verifier.core.times import when
from verifier.errors import ConfigError, UnsafeOperationError

if TYPE_CHECKING:
    from verifier.core.applications import Applications

metrics_option = click.option(
    "--metrics", metavar="URL", help="Ask this metrics page (http://host:port/metrics) when each secret was last used."
)


@click.group()
def applications() -> None:
    """The applications of the escs dashboard, and the digests of their secrets."""


@applications.command("add")
@click.argument("application_id")
@json_option
@file_option
def add(application_id: str, as_json: bool, path: Path) -> None:
    """Add APPLICATION_ID, or a second secret to it. The secret is asked for, or read from standard input."""
    secret = _read_secret()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        _write(path, _read(path, missing_ok=True).with_secret(application_id, secret), application_id, as_json)


@applications.command("rotate-secret")
@click.argument("application_id")
@metrics_option
@json_option
@file_option
def rotate_secret(application_id: str, metrics: str | None, as_json: bool, path: Path) -> None:
    """Accept a second secret of APPLICATION_ID beside the first. It is asked for, or read from standard input.

    Then enter it in the escs dashboard, and remove the old one when it is no longer used.
    """
    _find(_read(path), application_id)
    secret = _read_secret()
    with _locked(path):
        known = _read(path)
        _find(known, application_id)
        _write(path, known.with_secret(application_id, secret), application_id, as_json, metrics)
    if not as_json:
        click.echo(
            f"Enter the new secret in the escs dashboard. When secret 1 is no longer used:\n"
            f"  verifier applications remove-secret {application_id} --slot 1"
        )


@applications.command("remove-secret")
@click.argument("application_id")
@click.option("--slot", type=click.IntRange(1, 2), required=True, help="As `list` shows it; 1 is the older.")
@json_option
@file_option
def remove_secret(application_id: str, slot: int, as_json: bool, path: Path) -> None:
    """Remove one of two live secrets of APPLICATION_ID."""
    _read(path)  # where there is none, none is locked
    with _locked(path):
        _write(path, _read(path).without_secret(application_id, slot), application_id, as_json)


@applications.command("list")
@metrics_option
@json_option
@file_option
def list_(metrics: str | None, as_json: bool, path: Path) -> None:
    """Show every application and its secrets, by the beginning of their digests."""
    known = _read(path)
    _show([_row(known, application_id, metrics) for application_id in known.by_id], as_json)


def _read_secret() -> Secret:
    if sys.stdin.isatty():
        return Secret.of(click.prompt("Secret key", hide_input=True, confirmation_prompt=True))
    return Secret.of(sys.stdin.readline().rstrip("\r\n"))


def _find(known: "Applications", application_id: str) -> None:
    if application_id not in known.by_id:
        raise UnsafeOperationError(
            f"application {application_id} is unknown", hint=f"verifier applications add {application_id}"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from verifier.storage.atomic import locked

    # Beside the file, which itself is replaced at every change.
    with locked(path.with_name(f".{path.name}.lock")):
        yield


def _read(path: Path, *, missing_ok: bool = False) -> "Applications":
    """The applications of a file in which everything is good; raises ConfigError."""
    from verifier.core.applications import Applications, parse

    if missing_ok and not path.exists():
        return Applications()
    try:
        found, problems = parse(path.read_bytes())
    except OSError as exc:
        hint = "verifier applications add ID makes it"
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})", hint=hint) from exc
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    if problems:
        # Writing the file again would lose those entries.
        raise ConfigError(f"{path}: {'; '.join(problems)}", hint="mend the file by hand")
    return found


def _write(path: Path, changed: "Applications", application_id: str, as_json: bool, metrics: str | None = None) -> None:
    from verifier.storage.atomic import write_atomic

    row = _row(changed, application_id, metrics)
    # The mode stays as it was set for the user of the server.
    write_atomic(path, changed.dump(), path.stat().st_mode & 0o777 if path.exists() else 0o640)
    if not as_json:
        click.echo(f"{path}: application {application_id} has {len(row['secrets'])} live secret(s)")
    _show([row], as_json)


def _row(known: "Applications", application_id: str, metrics: str | None) -> dict[str, Any]:
    from verifier.rotation.replicas import last_use

    used = {} if metrics is None else last_use(metrics, application_id)
    live = enumerate(known.by_id[application_id].secrets, start=1)
    rows = [
        {"slot": n, "sha256": s.digest.hex()[:12], "weakness": s.weakness, "last_used": used.get(n)} for n, s in live
    ]
    return {"id": application_id, "secrets": rows}


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"applications": rows}, indent=2))
        return
    for row in rows:
        for secret in row["secrets"]:
            weakness = f"  weak: {secret['weakness']}" if secret["weakness"] else ""
            used = f"  last used {when(secret['last_used'])}" if secret["last_used"] else ""
            click.echo(f"{row['id']}  secret {secret['slot']}  sha256 {secret['sha256']}...{weakness}{used}")

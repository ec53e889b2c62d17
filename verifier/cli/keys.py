"""The commands that change keys: each refuses what would lock players out, and prints what happens when."""

import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from verifier.cli.changes import begin, open_keystore, print_events, read_input, text_argument
from verifier.cli.evidence import audit, confirm, report
from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.help import CommandGroup
from verifier.cli.merge import merge
from verifier.cli.options import (
    DURATION,
    change_options,
    cryptoperiod_option,
    force_option,
    json_option,
    keys_option,
    leeway_option,
    option,
    print_json,
)
from verifier.cli.output import echo, warn
from verifier.cli.revoke import revoke
from verifier.core.keyring import Keyring, PublicKey
from verifier.core.times import LEAD_S, RETENTION_S, duration, utc
from verifier.errors import KeyFileError, UnsafeOperationError
from verifier.rotation import history, plan
from verifier.rotation.confirmations import needed_overlap
from verifier.rotation.key_import import Verdict, read_document
from verifier.rotation.plan import OverlapPolicy
from verifier.rotation.preconditions import obstacles, require_later_than, revoked_kids
from verifier.signing.keystore import Keystore
from verifier.signing.private_key import unusable_private_keys
from verifier.storage.journal import MAX_HISTORY_BYTES, digest
from verifier.storage.key_directory import KeyDirectory
from verifier.storage.snapshot import read_file


@click.group(cls=CommandGroup)
def keys() -> None:
    """Generate, rotate, revoke and review keys."""


for command in (audit, confirm, merge, report, revoke):
    keys.add_command(command)

ALGORITHMS = click.Choice(["ES256", "EdDSA", "RS256"])
lead_option = option(
    "--lead", type=DURATION, default=duration(LEAD_S), help="Delay before the new key becomes active: 90s, 30m, 1h."
)


@keys.command("generate")
@option("--alg", type=ALGORITHMS, default="ES256", help="Signature algorithm.")
@json_option
@keys_option
def generate(alg: str, as_json: bool, keys: Path) -> None:
    """Generate the first key pair; it is active immediately."""
    with begin(keys, create=True) as (store, _, now):
        jwk, pem = store.generate_pair(alg)
        events = store.apply(store.planner().begin([jwk]), "generate", now=now, pem=pem)
    print_events(store, events, as_json)


@keys.command("list")
@cryptoperiod_option
@json_option
@keys_option
def list_(cryptoperiod_s: int, as_json: bool, keys: Path) -> None:
    """List every public key and its state; exit 1 if a file cannot be used, is missing or is not as recorded."""
    directory, private, now = KeyDirectory(keys / "public"), keys / "private", int(time.time())
    directory.refresh()
    keyring = directory.keyring
    found, events = _history_problems(directory, keys / "history.jsonl", now)
    imported = history.imported(events)  # which may sign in a KMS or an HSM
    unusable = list(unusable_private_keys(keyring, private, now))
    problems = [*found, *(text for key, text in unusable if key.kid not in imported)]
    limit = plan.rotate_by(keyring, now, cryptoperiod_s)
    if as_json:
        rows = [_key_to_dict(keyring, key, now) for key in keyring.keys.values()]
        print_json({"keys": rows, "key_set_digest": keyring.digest, "rotate_by": limit, "problems": problems})
    else:
        for key in keyring.keys.values():
            until = utc(key.exp) if key.exp else "no expiry"
            name = f"{key.kid}  {key.algorithm.name:<5}  {keyring.state(key, now):<8}"
            due = f", rotate by {utc(limit)}" if limit is not None and key.nbf + cryptoperiod_s == limit else ""
            echo(f"{name}  {utc(key.nbf)} to {until}{due}")
        for key, text in unusable:
            if key.kid in imported:
                warn(text)
        current = keyring.current(now)
        readable = os.access(private, os.R_OK | os.X_OK)
        if current and current.kid not in imported and readable and not any(private.glob("*.pem")):
            warn(f"{private} holds no private key: no token can be issued here (restore them, or sign elsewhere)")
        for problem in problems:
            echo(f"verifier: error: {problem}", err=True)
        if directory.missing_hint:
            echo(f"verifier: hint: {directory.missing_hint}", err=True)
    if problems:
        sys.exit(EXIT_REFUSED)


def _history_problems(directory: KeyDirectory, path: Path, now: int) -> tuple[list[str], tuple[history.Event, ...]]:
    """Return where the files, the clock and the history disagree, and the events.

    Where they do, the states shown may not be those of the servers.
    """
    try:
        directory.require_readable()
        content = read_file(path, MAX_HISTORY_BYTES)
        found = [obstacle.found for obstacle in obstacles(directory, path, content, now)]
        require_later_than(content, now, path)
    except (KeyFileError, FileNotFoundError):  # only public/ is here, or another command reports it
        return list(directory.problems), ()
    except OSError as exc:
        return [*directory.problems, f"{path}: cannot be read ({exc.strerror})"], ()
    except UnsafeOperationError as exc:
        found.append(str(exc).removesuffix("; nothing was changed"))
    return found, history.load(content).events


def _key_to_dict(keyring: Keyring, key: PublicKey, now: int) -> dict[str, Any]:
    members = {"kid": key.kid, "alg": key.algorithm.name, "state": keyring.state(key, now)}
    dates = {"iat": key.iat, "nbf": key.nbf, "exp": key.exp}
    revoked = {} if key.revoked_at is None else {"revoked_at": key.revoked_at, "reason": key.reason}
    return members | dates | revoked


@keys.command("rotate")
@lead_option
@option("--alg", type=ALGORITHMS, help="Signature algorithm.  [default: as the current key]")
@force_option("Allow a lead in which not every replica has the next key: its first tokens are rejected there.")
@change_options
def rotate(lead: int, alg: str | None, force: bool, window: OverlapPolicy, as_json: bool, keys: Path) -> None:
    """Publish the next key ahead of time; signers and verifiers switch automatically at the scheduled time.

    The current key's end is computed: when its last token has expired, allowing for clock skew.
    """
    with begin(keys) as (store, keyring, now):
        current = keyring.current(now)
        jwk, pem = store.generate_pair(alg or (current.algorithm.name if current else "ES256"))
        changes = store.planner(window, force).rotate(jwk, lead)
        _warn_of_settings(store, now, lead, window)
        context = asdict(window) | {"lead_s": lead, "force": force}
        events = store.apply(changes, "rotate", now=now, pem=pem, window=window, context=context)
    print_events(store, events, as_json)


def _warn_of_settings(store: Keystore, now: int, lead: int, window: OverlapPolicy) -> None:
    """Warn if the replicas, as they were last confirmed, accept tokens for longer than the old key will verify."""
    needed_s = needed_overlap(history.load(store.read_history()).confirmations, now, now + lead)
    if needed_s > window.overlap_s:
        warn(
            f"the replicas were last confirmed with settings that need an overlap of {needed_s} s, and this one is "
            f"{window.overlap_s} s: set VERIFIER_MAX_LIFETIME and VERIFIER_LEEWAY as on the replicas"
        )


@keys.command("cancel")
@option("--kid", "prefix", metavar="PREFIX", help="Key ID or unique prefix; required if several keys are pending.")
@force_option("Cancel also if a signer may start to use the key before it reads the change: its tokens are rejected.")
@change_options
def cancel(prefix: str | None, force: bool, window: OverlapPolicy, as_json: bool, keys: Path) -> None:
    """Withdraw a pending key; the end of the key before it is recomputed from the keys that remain."""
    with begin(keys) as (store, _, now):
        changes = store.planner(window, force).cancel(prefix or "")
        context = asdict(window) | {"force": force}
        events = store.apply(changes, "cancel", now=now, window=window, context=context)
    print_events(store, events, as_json)


@keys.command("prune")
@option(
    "--retention",
    type=DURATION,
    default=duration(RETENTION_S),
    help="How long public files are kept after the end of the key.",
)
@leeway_option
@json_option
@keys_option
def prune(retention: int, leeway: int, as_json: bool, keys: Path) -> None:
    """Remove private keys that no longer sign, and public files of keys that ended before the retention.

    Removing unlinks a file; what the disk or a backup keeps of it is beyond this command.
    """
    with begin(keys) as (store, _, now):
        events = history.load(store.read_history()).events
        changes = store.planner(OverlapPolicy(leeway_s=leeway)).prune(retention, events)
        pruned = store.apply(changes, "prune", now=now)
    print_events(store, pruned, as_json)


@keys.command("import")
@click.argument("file")
@option("--note", help="Recorded in the history: where the keys come from.")
@lead_option
@force_option("Allow a lead in which not every replica has the key.")
@change_options
def import_(
    file: str, note: str | None, lead: int, force: bool, window: OverlapPolicy, as_json: bool, keys: Path
) -> None:
    """Import public keys made elsewhere: a PEM, JWK or JWKS FILE (- for standard input), all or none.

    Into an empty folder they go with their own dates; beside a current key, one becomes the next.
    """
    data, text = read_input(file), text_argument("--note", note or "")
    verdicts = read_document(data, file)
    with begin(keys, create=True) as (store, keyring, now):
        found = _require_importable(verdicts, file, keyring, revoked_kids(store.read_history()), now)
        if keyring.current(now) is None:
            changes = store.planner(window, force).begin(found)
        elif len(found) == 1:
            changes = store.planner(window, force).rotate(found[0], lead)
            _warn_of_settings(store, now, lead, window)
        else:
            raise UnsafeOperationError(
                f"{file}: only one key can be the next (found {len(found)}); nothing was imported",
                hint="import a file with one of them, or all of them into an empty folder",
            )
        context = asdict(window) | {"lead_s": lead, "force": force, "origin": digest(data), "note": text}
        events = store.apply(changes, "import", now=now, window=window, context=context)
    if not as_json:
        for verdict in verdicts:
            echo(str(verdict) + ("" if verdict.problem else f", imported from {file} (sha256 {digest(data)[:12]})"))
    print_events(store, events, as_json)


def _require_importable(
    verdicts: list[Verdict], file: str, keyring: Keyring, revoked: set[str], now: int
) -> list[dict[str, Any]]:
    """Return the keys to import; raise ConfigError with a verdict per key if one cannot be."""
    checked = []
    for verdict in verdicts:
        exp = (verdict.members or {}).get("exp")
        problem = verdict.problem
        if verdict.members is not None and verdict.kid in revoked:
            problem = "was revoked here: a revoked key is never trusted again"
        elif verdict.members is not None and keyring.find(verdict.kid):
            problem = "exists already"
        elif exp is not None and exp <= now:
            problem = f"expired {utc(exp)}"
        checked.append(replace(verdict, problem=problem))
    wanted = [verdict for verdict in checked if not verdict.skipped]
    if not wanted or any(verdict.problem for verdict in wanted):
        found = "; ".join(map(str, checked))
        kind = UnsafeOperationError if any(v.members is not None and v.problem for v in checked) else KeyFileError
        raise kind(
            f"{file}: nothing was imported (all keys or none): {found}",
            hint="remove the keys that cannot be used from the file, or correct them",
        )
    return [dict(verdict.members or {}) for verdict in wanted]


@keys.command("recover")
@option("--undo", is_flag=True, help="Abandon the interrupted change instead, if that is still safe.")
@keys_option
def recover(undo: bool, keys: Path) -> None:
    """Finish the change of a command that was interrupted. Every command that changes keys does this first."""
    store = open_keystore(keys)
    with store.transaction(undo=undo):
        for text in store.notes or ["Nothing to recover."]:
            echo(text)

"""The commands about keys: each refuses what would lock players out, and says what happens when."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import Command, Duration, json_option, keys_option, print_json, window_options
from verifier.core.times import duration, utc, when
from verifier.errors import ConfigError, UnsafeOperationError
from verifier.rotation.plan import LEAD_S, RETENTION_S

if TYPE_CHECKING:
    from verifier.core.keyring import Keyring, PublicKey
    from verifier.rotation.history import Event
    from verifier.signing.keystore import Keystore


@click.group()
def keys() -> None:
    """Make, rotate, revoke and review keys."""


alg_option = click.option("--alg", type=click.Choice(["ES256", "EdDSA", "RS256"]), help="[default: as the current key]")
lead_option = click.option(
    "--lead",
    type=Duration(),
    default=duration(LEAD_S),
    show_default=True,
    help="From now until the next key signs: 90s, 30m, 1h.",
)


def force_option(text: str) -> Callable[[Command], Command]:
    """`--force`, with what it may cost."""
    return click.option("--force", is_flag=True, help=text)


@keys.command("generate")
@click.option("--alg", type=click.Choice(["ES256", "EdDSA", "RS256"]), default="ES256", show_default=True)
@json_option
@keys_option
def generate(alg: str, as_json: bool, keys: Path) -> None:
    """Make the first key pair; it signs at once."""
    from verifier.rotation import plan

    store, now = _keystore(keys), int(time.time())
    with store.transaction() as keyring:
        current = keyring.current(now)
        if current is not None:
            raise UnsafeOperationError(
                f"{store.public.folder}: a key is current already (found {current.kid})",
                hint="schedule the next one: verifier keys rotate",
            )
        jwk, pem = store.generate_pair(alg)
        events = store.apply([plan.activate_first_key(jwk, now=now)], "generate", now=now, pem=pem)
    _say(store, events, as_json)


@keys.command("list")
@json_option
@keys_option
def list_(as_json: bool, keys: Path) -> None:
    """Show every public key and its state."""
    from verifier.storage.key_directory import KeyDirectory

    directory, now = KeyDirectory(keys / "public"), int(time.time())
    directory.refresh()
    keyring = directory.keyring
    if as_json:
        rows = [row(keyring, key, now) for key in keyring.keys.values()]
        print_json({"keys": rows, "key_set_digest": keyring.digest, "problems": directory.problems})
    else:
        for key in keyring.keys.values():
            until = utc(key.exp) if key.exp else "no end"
            name = f"{key.kid}  {key.algorithm.name:<5}  {keyring.state(key, now):<8}"
            click.echo(f"{name}  {utc(key.nbf)} to {until}")
        for problem in directory.problems:
            click.echo(f"verifier: error: {problem}", err=True)
    if directory.problems:
        sys.exit(EXIT_REFUSED)


def row(keyring: "Keyring", key: "PublicKey", now: int) -> dict[str, Any]:
    """A key as JSON for a reader."""
    members = {"kid": key.kid, "alg": key.algorithm.name, "state": keyring.state(key, now)}
    dates = {"iat": key.iat, "nbf": key.nbf, "exp": key.exp}
    revoked = {} if key.revoked_at is None else {"revoked_at": key.revoked_at, "reason": key.reason}
    return members | dates | revoked


@keys.command("rotate")
@lead_option
@alg_option
@force_option("Also with a lead in which not every replica has the next key: they refuse its first tokens.")
@window_options
@json_option
@keys_option
def rotate(lead: int, alg: str | None, force: bool, max_lifetime: int, leeway: int, as_json: bool, keys: Path) -> None:
    """Publish the next key ahead of time; signers and verifiers switch to it by the clock.

    The current key's end is computed: when its last token has expired by every clock.
    """
    from verifier.rotation import plan

    store, now = _keystore(keys), int(time.time())
    with store.transaction() as keyring:
        _need_good_files(store)
        current = keyring.current(now)
        jwk, pem = store.generate_pair(alg or (current.algorithm.name if current else "ES256"))
        window = plan.OverlapPolicy(max_lifetime, leeway)
        changes = plan.rotate(keyring, jwk, now=now, lead_s=lead, window=window, force=force)
        events = store.apply(changes, "rotate", now=now, pem=pem)
    _say(store, events, as_json)


@keys.command("revoke")
@click.option("--kid", "prefix", required=True, metavar="PREFIX", help="The key, by the beginning of its kid.")
@click.option("--reason", required=True, help="Why; it is published with the key.")
@click.option("--replace", is_flag=True, help="Make the pending key, or else a new one, current in its place.")
@force_option("Also when no other key can sign: every sign-in is refused.")
@window_options
@json_option
@keys_option
def revoke(
    prefix: str, reason: str, replace: bool, force: bool, max_lifetime: int, leeway: int, as_json: bool, keys: Path
) -> None:
    """Refuse every token of a key from now on, also those already handed out."""
    from verifier.rotation import plan

    store, now = _keystore(keys), int(time.time())
    with store.transaction() as keyring:
        key = _one(keyring, prefix)
        jwk, pem = store.generate_pair(key.algorithm.name) if replace else (None, None)
        current = keyring.current(now)
        changes = plan.revoke(
            keyring,
            key,
            reason,
            now=now,
            replacement=jwk,
            previous_exp=store.previous_exp(current.kid) if current else None,
            window=plan.OverlapPolicy(max_lifetime, leeway),
            force=force,
        )
        used = jwk is not None and changes[0].kid == jwk["kid"]
        events = store.apply(changes, "revoke", now=now, pem=pem if used else None)
    _say(store, events, as_json)


@keys.command("cancel")
@force_option("Also when a signer may begin to sign with the key before it hears of this: its tokens are refused.")
@window_options
@json_option
@keys_option
def cancel(force: bool, max_lifetime: int, leeway: int, as_json: bool, keys: Path) -> None:
    """Withdraw the pending key; the current one keeps the end it had before."""
    from verifier.rotation import plan

    store, now = _keystore(keys), int(time.time())
    with store.transaction() as keyring:
        current = keyring.current(now)
        changes = plan.cancel(
            keyring,
            now=now,
            previous_exp=store.previous_exp(current.kid) if current else None,
            window=plan.OverlapPolicy(max_lifetime, leeway),
            force=force,
        )
        events = store.apply(changes, "cancel", now=now)
    _say(store, events, as_json)


@keys.command("prune")
@click.option("--retention", type=Duration(), default=duration(RETENTION_S), show_default=True)
@json_option
@keys_option
def prune(retention: int, as_json: bool, keys: Path) -> None:
    """Remove private halves that no longer sign, and public files of keys that ended before the retention.

    Removing unlinks a file; what the disk or a backup keeps of it is beyond this command.
    """
    from verifier.rotation import plan

    store, now = _keystore(keys), int(time.time())
    with store.transaction() as keyring:
        events = store.apply(plan.prune(keyring, now=now, retention_s=retention), "prune", now=now)
    _say(store, events, as_json)


@keys.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@lead_option
@force_option("Also with a lead in which not every replica has the key.")
@window_options
@json_option
@keys_option
def import_(file: Any, lead: int, force: bool, max_lifetime: int, leeway: int, as_json: bool, keys: Path) -> None:
    """Take in public keys made elsewhere: a PEM, JWK or JWKS FILE (- for standard input).

    Into an empty folder they go as they are; beside a current key, one becomes the next.
    """
    from verifier.core import jwk
    from verifier.rotation import plan

    store, now = _keystore(keys), int(time.time())
    found = jwk.read_public(file.read())
    with store.transaction() as keyring:
        known = [key["kid"] for key in found if keyring.find(key["kid"])]
        if known:
            raise UnsafeOperationError(f"a key is there already (found {known[0]})")
        if keyring.current(now) is None:
            changes = [plan.activate_first_key(key, now=now) for key in found]
        elif len(found) == 1:
            window = plan.OverlapPolicy(max_lifetime, leeway)
            changes = plan.rotate(keyring, found[0], now=now, lead_s=lead, window=window, force=force)
        else:
            raise UnsafeOperationError(
                f"only one key can be the next (found {len(found)})", hint="import one, or all into an empty folder"
            )
        events = store.apply(changes, "import", now=now)
    _say(store, events, as_json)


def _keystore(folder: Path) -> "Keystore":
    from verifier.signing.keystore import Keystore

    return Keystore(folder)


def _need_good_files(store: "Keystore") -> None:
    if store.public.problems:
        raise ConfigError("; ".join(store.public.problems), hint="mend or remove the file first")


def _one(keyring: "Keyring", prefix: str) -> "PublicKey":
    found = [key for kid, key in keyring.keys.items() if kid.startswith(prefix)]
    if len(found) != 1:
        raise UnsafeOperationError(
            f"the prefix must name one key (found {len(found)} for {prefix})", hint="verifier keys list"
        )
    return found[0]


def _say(store: "Keystore", events: "Iterable[Event]", as_json: bool) -> None:
    if as_json:
        print_json({"events": [asdict(event) for event in events], "key_set_digest": store.public.keyring.digest})
        return
    events = list(events)
    for event in events:
        click.echo(f"{event.kid}  {event.old} -> {event.new}" + (f"  ({event.reason})" if event.reason else ""))
        private = store.private / f"{event.kid}.pem"
        if event.old == "none" and private.exists():
            click.echo(f"  private half in {private}")
        if event.nbf is not None and event.old != event.new and event.new in ("pending", "current"):
            click.echo(f"  signs from {when(event.nbf)}")
        if event.exp is not None and event.revoked_at is None:
            click.echo(f"  verifies until {when(event.exp)}")
    if events:
        click.echo(
            f"Written to {store.public.folder} and {store.history}. Commit both; the diff is what a reviewer approves."
        )
    else:
        click.echo("Nothing to do.")

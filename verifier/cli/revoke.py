"""`verifier keys revoke`: find the key, also one whose file is missing, and revoke it."""

from dataclasses import asdict
from pathlib import Path

import click

from verifier.cli.changes import begin, print_events, text_argument
from verifier.cli.options import change_options, force_option, option
from verifier.cli.output import warn
from verifier.core.keyring import PublicKey
from verifier.errors import ConfigError, UnsafeOperationError
from verifier.rotation import history
from verifier.rotation.plan import OverlapPolicy, Plan
from verifier.rotation.preconditions import restoring
from verifier.signing.keystore import Keystore


@click.command("revoke")
@option("--kid", "prefix", required=True, metavar="PREFIX", help="Key ID or unique prefix.")
@option("--reason", required=True, help="Published with the key.")
@option("--replace", "replacing", is_flag=True, help="Make the pending key, or else a new one, current in its place.")
@force_option("Revoke also if no other key can sign (every sign-in is rejected), or if the clock is behind.")
@change_options
def revoke(
    prefix: str, reason: str, replacing: bool, force: bool, window: OverlapPolicy, as_json: bool, keys: Path
) -> None:
    """Reject every token of a key from now on, including those already issued.

    Proceeds if other files cannot be read, and reports them.
    """
    reason = text_argument("--reason", reason)
    with begin(keys, revoking=True, force=force) as (store, keyring, now):
        key = _find_by_prefix(store, prefix, now)
        kid, state = (key, "missing") if isinstance(key, str) else (key.kid, str(keyring.state(key, now)))
        changes, pem = _plan(store, key, reason, replacing, force, window)
        if replacing and pem is None and not any(step.new == "current" != step.old for step in changes):
            current = keyring.current(now)
            signs = f"{current.kid} signs" if current else "no key is current"
            warn(f"--replace has no effect: {kid} is {state} and {signs}")
        context = asdict(window) | {"force": force}
        events = store.apply(changes, "revoke", now=now, pem=pem, window=window, context=context)
    print_events(store, events, as_json)


def _plan(
    store: Keystore, key: PublicKey | str, reason: str, replacing: bool, force: bool, window: OverlapPolicy
) -> tuple[Plan, str | None]:
    """Return the plan, and the private key if it publishes another one."""
    alg = "ES256" if isinstance(key, str) else key.algorithm.name
    jwk, pem = store.generate_pair(alg) if replacing else (None, None)
    if isinstance(key, str):
        changes = store.planner(window, force).give_up(key, reason, jwk)
    else:
        # A file that cannot be used may contain the current key.
        force = force or bool(store.public.problems and store.public.keyring.state(key, store.now) == "pending")
        changes = store.planner(window, force).revoke(key, reason, jwk)
    return changes, pem if jwk is not None and changes[0].kid == jwk["kid"] else None


def _find_by_prefix(store: Keystore, prefix: str, now: int) -> PublicKey | str:
    """Return the key that a prefix names, or the kid of one whose file is missing."""
    keyring = store.public.keyring
    found = [key for kid, key in keyring.keys.items() if kid.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{key.kid} ({keyring.state(key, now)})" for key in found)
        raise UnsafeOperationError(f"{len(found)} keys match {prefix!r}: {names}", hint="give more of the kid")
    for path in sorted(path for path in store.public.folder.glob("*.json") if path.name.startswith(prefix)):
        raise ConfigError(
            f"{path}: cannot be used, so no server that reads it accepts the key; it was not revoked",
            hint=f"restore the file ({restoring(path)}), then revoke the key",
        )
    log = history.load(store.read_history())
    recorded = history.replay(log.events)
    missing = [kid for kid in recorded if kid.startswith(prefix) and keyring.find(kid) is None]
    if len(missing) == 1 and log.problems:
        path = store.public.folder / f"{missing[0]}.json"
        raise ConfigError(
            f"{path}: is missing, and {store.history} is damaged: nothing was changed, because nothing can record it",
            hint="restore the file, then revoke the key; or repair the history first (verifier keys merge)",
        )
    if len(missing) == 1:
        return missing[0]
    raise UnsafeOperationError(f"no key matches {prefix!r}", hint="verifier keys list")

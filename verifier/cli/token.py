"""`verifier token` and `verifier explain`: issue a token, and validate one offline."""

import json
import sys
import time
from pathlib import Path

import click

from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import json_option, max_lifetime_option, token_options, window_options
from verifier.core.rules import MAX_LIFETIME_S


@click.command()
@click.argument("player_id")
@click.option("--email", help="Leave out what the player did not agree to share.")
@click.option("--username")
@click.option("--lifetime", type=int, default=MAX_LIFETIME_S, show_default=True, help="Seconds until it expires.")
@max_lifetime_option
@token_options
def token(
    player_id: str,
    email: str | None,
    username: str | None,
    lifetime: int,
    max_lifetime: int,
    issuer: str,
    application_id: str,
    keys: Path,
) -> None:
    """Mint a token for PLAYER_ID with the current key and print it."""
    from verifier.signing.issuer import TokenIssuer

    minter = TokenIssuer.from_directory(
        keys, issuer=issuer, application_id=application_id, lifetime_s=lifetime, max_lifetime_s=max_lifetime
    )
    click.echo(minter.issue(player_id, email=email, username=username))


@click.command()
@window_options
@token_options
@json_option
def explain(leeway: int, max_lifetime: int, issuer: str, application_id: str, keys: Path, as_json: bool) -> None:
    """Say what every rule makes of the token on standard input, offline.

    Never prints the token, the player id, the e-mail or the username.
    """
    from dataclasses import asdict

    from verifier.core.explain import clock_offset
    from verifier.core.explain import explain as explain_token
    from verifier.core.rules import Policy
    from verifier.storage.key_directory import KeyDirectory

    text, now = sys.stdin.read().strip(), int(time.time())
    keyring = KeyDirectory(keys / "public").load()
    verdicts = explain_token(text, Policy(issuer, application_id, keyring, now, leeway, max_lifetime))
    failures = [verdict for verdict in verdicts if verdict.failure]
    offset = clock_offset(text, now)
    if as_json:
        click.echo(
            json.dumps({"rules": [asdict(v) for v in verdicts], "clock": offset, "accepted": not failures}, indent=2)
        )
    else:
        for verdict in verdicts:
            click.echo(f"{'FAIL' if verdict.failure else 'pass'}  {verdict.rule:<9}  {verdict.got}")
            if verdict.failure:
                click.echo(f"      {verdict.failure}; expected {verdict.expected} ({verdict.source})")
        click.echo(f"\n{offset}" if offset else "\niat cannot be read")
        click.echo(f"{len(failures)} of {len(verdicts)} rules fail" if failures else "accepted")
    if failures:
        sys.exit(EXIT_REFUSED)

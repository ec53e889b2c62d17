"""`verifier token` and `verifier explain`: issue a token, and validate one offline."""

import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import json_option, leeway_option, max_lifetime_option, option, print_json, token_options
from verifier.cli.output import expect_input
from verifier.core import explain as explanation
from verifier.core.rules import Policy
from verifier.core.times import DEFAULT_LIFETIME_S
from verifier.errors import ConfigError, Reason
from verifier.storage.key_directory import KeyDirectory

MAX_SHOWN_KEYS = 5
MAX_INPUT_BYTES = 1_048_576


@click.command()
@click.argument("player_id")
@option("--email", help="Omit it if the player has not agreed to share it.")
@option("--username", help="Omit it if the player has not agreed to share it.")
@option("--lifetime", type=int, help=f"Lifetime of the token in seconds.  [default: {DEFAULT_LIFETIME_S}]")
@max_lifetime_option
@token_options
def token(
    player_id: str,
    email: str | None,
    username: str | None,
    lifetime: int | None,
    max_lifetime: int,
    issuer: str,
    application_id: str,
    keys: Path,
) -> None:
    """Issue a token for PLAYER_ID with the current key."""
    from verifier.signing.issuer import TokenIssuer  # here, because `explain` does not load what signs

    token_issuer = TokenIssuer.from_directory(
        keys, issuer=issuer, application_id=application_id, lifetime_s=lifetime, max_lifetime_s=max_lifetime
    )
    click.echo(token_issuer.issue(player_id, email=email, username=username))


@click.command()
@max_lifetime_option
@leeway_option
@token_options
@json_option
def explain(leeway: int, max_lifetime: int, issuer: str, application_id: str, keys: Path, as_json: bool) -> None:
    """Validate a token offline and report every check.

    The token is read from standard input. Never prints the token, the player ID, the e-mail or the username.
    """
    expect_input("the token")
    # A shell ends its output with a newline that is not part of the token; any other white space is reported.
    data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(data) > MAX_INPUT_BYTES:
        raise ConfigError(f"standard input is larger than {MAX_INPUT_BYTES} bytes (expected a token)")
    text = data.decode().removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise ConfigError("standard input is empty (expected a token)", hint="verifier explain ... < token")
    keyring = KeyDirectory(keys / "public").load()
    results = explanation.explain(text, Policy(issuer, application_id, keyring, int(time.time()), leeway, max_lifetime))
    failures = [result for result in results if result.failure]
    if as_json:
        print_json({"rules": [asdict(result) for result in results], "accepted": not failures})
    else:
        for result in results:
            status = "FAIL" if result.failure else "skip" if result.skipped else "pass"
            actual = f"not checked: {result.skipped}" if result.skipped else result.actual
            click.echo(f"{status}  {result.rule:<9}  {actual}")
            if result.failure:
                expected = f"expected {result.expected}"
                failure = result.failure if result.failure.endswith(expected) else f"{result.failure}; {expected}"
                click.echo(f"      {failure} ({result.source})")
            if result.reason == Reason.UNKNOWN_KEY:
                click.echo(f"      {_describe_keys(keys / 'public', list(keyring.keys))}")
        click.echo(f"\n{len(failures)} of {len(results)} checks failed" if failures else "\naccepted")
    if failures:
        sys.exit(EXIT_REFUSED)


def _describe_keys(folder: Path, kids: list[str]) -> str:
    """Name the newest keys of a folder by the beginning of their kids."""
    shown = [f"{kid[:8]}..." for kid in kids[: -MAX_SHOWN_KEYS - 1 : -1]]
    more = f" and {len(kids) - len(shown)} more" if len(kids) > len(shown) else ""
    return f"{folder} has {', '.join(shown) or 'no key'}{more}"

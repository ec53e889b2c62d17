"""`verifier check`: conformance checks against any Game API URL."""

import os
import sys
import time
from typing import Any

import click

from verifier.cli.changes import read_input, read_secret
from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import PATH, json_option, name_option, option
from verifier.cli.output import show_progress
from verifier.conformance import Url, output, runner
from verifier.conformance.forge import Context, Key
from verifier.core.applications import BYTE_ORDER_MARK
from verifier.signing.current_key import CurrentKey


@click.command()
@click.argument("url", required=False)
@name_option("application_id", "From the escs dashboard.")
@option(
    "--secret-file",
    type=click.Path(),
    metavar="FILENAME",
    envvar="VERIFIER_SECRET_KEY_FILE",
    help="File with the secret key; or VERIFIER_SECRET_KEY, or a prompt.",
)
@option(
    "--token",
    type=click.Path(),
    metavar="FILENAME",
    help="File with one valid token, - for standard input; or VERIFIER_TOKEN.",
)
@option("--keys", type=PATH, help="Sign with the current key of this folder.")
@option("--private-key", type=click.Path(), metavar="FILENAME", help="Sign with this PEM file.")
@option("--kid", help="Key ID of --private-key.")
@name_option("issuer", "iss of the signed tokens.")
@option("--only", multiple=True, help="Run only this case or group; repeatable.")
@option("--list", "listing", is_flag=True, help="List test cases and exit.")
@option("--timeout", type=click.FloatRange(0.1, 600), default=10.0, help="Seconds per request.")
@option("--insecure", is_flag=True, help="Allow plain http to another host.")
@option("--strict", is_flag=True, help="Exit 1 for a failed should as well.")
@option("--junit", type=click.File("wb", lazy=True), help="File to write JUnit XML to.")
@json_option
def check(url: str | None, only: tuple[str, ...], listing: bool, as_json: bool, **options: Any) -> None:
    """Run conformance checks against any Game API URL.

    Sends valid and hostile requests and grades the responses.
    Tokens are signed during the run (--keys, or --private-key and --kid), or derived from one valid token (--token).
    "must": the interface of escs, and no unauthorized sign-in. "should": how verifier responds beyond that.
    """
    try:
        chosen = runner.select(only)
        if listing:
            for item in chosen:
                click.echo(f"{item.group:<9}  {item.level:<6}  {item.id:<20}  {item.description}")
            return
        if not url:
            raise click.UsageError("the URL is missing (expected https://host/path)")
        target = Url.parse(url, allow_http=options["insecure"])
        context = check_context(options)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    running = runner.run(target, context, chosen, options["timeout"])
    results = list(show_progress(running, len(chosen), lambda result: result.item.id))
    click.echo(output.render_json(target, results) if as_json else output.render_text(target, results))
    if options["junit"]:
        options["junit"].write(output.render_junit(target, results))
    counts = output.tally(results)
    sent = sum(counts[level][outcome] for level in counts for outcome in ("pass", "fail"))
    if not sent:
        raise click.UsageError("no request was sent: the chosen cases cannot be built from this token")
    if counts["must"]["fail"] or (options["strict"] and counts["should"]["fail"]):
        sys.exit(EXIT_REFUSED)


def check_context(options: dict[str, Any]) -> Context:
    """Build the context of `check`.

    Raises:
        ValueError: something is missing.
    """
    kid, pem, token = options["kid"], b"", ""
    if [options["keys"], options["private_key"], options["token"]].count(None) < 2:
        raise ValueError("give one of --keys, --private-key and --token")
    if not options["application_id"]:
        raise ValueError("--application-id is missing")
    if options["keys"]:
        current_key = CurrentKey(options["keys"])
        kid = current_key.signer(int(time.time())).kid
        pem = read_input(str(current_key.private / f"{kid}.pem"))
    elif options["private_key"]:
        pem = read_input(options["private_key"])
    else:
        token = _read_token(options["token"]) if options["token"] else os.environ.get("VERIFIER_TOKEN", "").strip()
    if not pem and not token:
        raise ValueError("give --keys, --private-key and --kid, or --token")
    if pem and not (kid and options["issuer"]):
        raise ValueError("a key needs --issuer, and --private-key also --kid")
    secret = options["secret_file"] and read_secret(options["secret_file"])
    secret = secret or os.environ.get("VERIFIER_SECRET_KEY", "").removeprefix(BYTE_ORDER_MARK)
    if not secret and sys.stdin.isatty():
        secret = click.prompt("Secret key", hide_input=True, err=True)
    if not secret:
        raise ValueError("the secret key is missing: --secret-file, or VERIFIER_SECRET_KEY")
    try:
        key = Key.load(pem, kid, options["issuer"]) if pem else None
    except ValueError as exc:
        raise ValueError(f"{options['private_key']}: {exc}") from exc
    return Context(options["application_id"], secret, token, key)


def _read_token(file: str) -> str:
    try:
        return read_input(file).decode("utf-8-sig").strip()
    except UnicodeDecodeError as exc:
        raise ValueError(f"{file}: the token is not UTF-8") from exc

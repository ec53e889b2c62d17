"""`verifier check`: conformance checks against any Game API URL."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from verifier.cli.changes import read_input, read_secret
from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.cli.options import Name, json_option
from verifier.cli.output import end_progress, progress
from verifier.core.applications import BYTE_ORDER_MARK


@click.command()
@click.argument("url", required=False)
@click.option(
    "--application-id",
    type=Name(),
    envvar="VERIFIER_APPLICATION_ID",
    show_envvar=True,
    help="From the escs dashboard.",
)
@click.option(
    "--secret-file",
    type=click.Path(),
    metavar="FILENAME",
    envvar="VERIFIER_SECRET_KEY_FILE",
    show_envvar=True,
    help="File with the secret key; or VERIFIER_SECRET_KEY, or a prompt.",
)
@click.option(
    "--token",
    type=click.Path(),
    metavar="FILENAME",
    help="File with one valid token, - for standard input; or VERIFIER_TOKEN.",
)
@click.option("--keys", type=click.Path(path_type=Path), help="Sign with the current key of this folder.")
@click.option("--private-key", type=click.Path(), metavar="FILENAME", help="Sign with this PEM file.")
@click.option("--kid", help="Key ID of --private-key.")
@click.option("--issuer", type=Name(), envvar="VERIFIER_ISSUER", show_envvar=True, help="iss of the signed tokens.")
@click.option("--only", multiple=True, help="Run only this case or group; repeatable.")
@click.option("--list", "listing", is_flag=True, help="List test cases and exit.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 600), default=10.0, show_default=True, help="Seconds per request."
)
@click.option("--insecure", is_flag=True, help="Allow plain http to another host.")
@click.option("--strict", is_flag=True, help="Exit 1 for a failed should as well.")
@click.option("--junit", type=click.File("wb", lazy=True), help="File to write JUnit XML to.")
@json_option
def check(url: str | None, only: tuple[str, ...], listing: bool, as_json: bool, **options: Any) -> None:
    """Run conformance checks against any Game API URL.

    Sends valid and hostile requests and grades the responses.
    Tokens are signed during the run (--keys, or --private-key and --kid), or derived from one valid token (--token).
    "must": the interface of escs, and no unauthorized sign-in. "should": how verifier responds beyond that.
    """
    from verifier.conformance import Url, output, runner

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
    results = []
    for result in runner.run(target, context, chosen, options["timeout"]):
        results.append(result)
        progress(len(results), len(chosen), result.item.id)
    end_progress()
    click.echo(output.render_json(target, results) if as_json else output.render_text(results))
    if options["junit"]:
        options["junit"].write(output.render_junit(target, results))
    counts = output.tally(results)
    sent = sum(counts[level][outcome] for level in counts for outcome in ("pass", "fail"))
    if not sent:
        raise click.UsageError("no request was sent: the chosen cases cannot be built from this token")
    if counts["must"]["fail"] or (options["strict"] and counts["should"]["fail"]):
        sys.exit(EXIT_REFUSED)


def check_context(options: dict[str, Any]) -> Any:
    """Build the context of `check`.

    Raises:
        ValueError: something is missing.
    """
    from verifier.conformance.forge import Context, Key

    kid, pem, token = options["kid"], b"", ""
    if [options["keys"], options["private_key"], options["token"]].count(None) < 2:
        raise ValueError("give one of --keys, --private-key and --token")
    if options["keys"]:
        from verifier.signing.keystore import Keystore

        store = Keystore(options["keys"])
        kid = store.signer(int(time.time())).kid
        pem = read_input(str(store.private / f"{kid}.pem"))
    elif options["private_key"]:
        pem = read_input(options["private_key"])
    else:
        token = _read_token(options["token"]) if options["token"] else os.environ.get("VERIFIER_TOKEN", "").strip()
    if not options["application_id"]:
        raise ValueError("--application-id is missing")
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
    key = Key.load(pem, kid, options["issuer"]) if pem else None
    return Context(options["application_id"], secret, token, key)


def _read_token(file: str) -> str:
    try:
        return read_input(file).decode("utf-8-sig").strip()
    except UnicodeDecodeError as exc:
        raise ValueError(f"{file}: the token is not UTF-8") from exc

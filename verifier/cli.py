"""The command line: parse, call, print, exit status."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from verifier import __version__, cli_applications, cli_keys
from verifier.errors import CannotIssue, CommandRefused, ConfigError
from verifier.options import COULD_NOT_START, REFUSED, json_option, max_lifetime_option, token_options, window_options
from verifier.settings import MAX_LIFETIME_S, Settings

# Each command imports what it needs: `serve` never loads what signs, and starts faster.


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="verifier")
def cli() -> None:
    """The Game API URL for escs, without a database: a signed token in, the player's profile out.

    Exit status: 0 good, 1 refused or findings, 2 usage, 3 could not start.
    """


@cli.command()
@click.option("--issuer", help="iss of every token. [env: VERIFIER_ISSUER]")
@click.option("--keys", help="Folder that holds public/. [env: VERIFIER_KEYS; default: keys]")
@click.option("--applications", help="File with several applications. [env: VERIFIER_APPLICATIONS]")
@click.option("--max-lifetime", help="Longest exp - iat in seconds. [env: VERIFIER_MAX_LIFETIME; default: 300]")
@click.option("--leeway", help="Seconds two clocks may differ. [env: VERIFIER_LEEWAY; default: 30]")
@click.option("--host", help="Address to listen on. [env: VERIFIER_HOST; default: 127.0.0.1]")
@click.option("--port", help="Port to listen on. [env: VERIFIER_PORT; default: 8000]")
@click.option("--workers", help="Processes. [env: VERIFIER_WORKERS; default: 1]")
@click.option("--max-connections", help="At once. [env: VERIFIER_MAX_CONNECTIONS; default: 4000]")
@click.option("--max-requests", help="At once. [env: VERIFIER_MAX_REQUESTS; default: 2500]")
@click.option("--max-body", help="Bytes. [env: VERIFIER_MAX_BODY; default: 16384]")
@click.option("--body-timeout", help="Seconds for a body. [env: VERIFIER_BODY_TIMEOUT; default: 5]")
@click.option("--head-timeout", help="Seconds for a request's head. [env: VERIFIER_HEAD_TIMEOUT; default: 5]")
@click.option("--keep-alive", help="Seconds between two requests. [env: VERIFIER_KEEP_ALIVE; default: 75]")
@click.option("--graceful-shutdown", help="Seconds to end in. [env: VERIFIER_GRACEFUL_SHUTDOWN; default: 8]")
@click.option("--metrics-port", help="Port for Prometheus. [env: VERIFIER_METRICS_PORT; default: none]")
@click.option("--log-level", help="debug, info, warning or error. [env: VERIFIER_LOG_LEVEL; default: info]")
@click.option("--log-format", help="json or text. [env: VERIFIER_LOG_FORMAT; default: text on a terminal, else json]")
def serve(**options: str | None) -> None:
    """Run the endpoint.

    Settings come from the environment (VERIFIER_*); an option here wins over its variable.
    """
    for name, value in options.items():
        if value is not None:
            os.environ[f"VERIFIER_{name.upper()}"] = value  # where worker processes find it
    settings = Settings.from_environment(os.environ)
    from verifier import server

    server.serve(settings)


@cli.command()
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
    from verifier.issuer import TokenIssuer

    minter = TokenIssuer.from_directory(
        keys, issuer=issuer, application_id=application_id, lifetime_s=lifetime, max_lifetime_s=max_lifetime
    )
    click.echo(minter.issue(player_id, email=email, username=username))


@cli.command()
@window_options
@token_options
@json_option
def explain(leeway: int, max_lifetime: int, issuer: str, application_id: str, keys: Path, as_json: bool) -> None:
    """Say what every rule makes of the token on standard input, offline.

    Never prints the token, the player id, the e-mail or the username.
    """
    from dataclasses import asdict

    from verifier.diagnosis import clock_offset, diagnose
    from verifier.keyring import KeyDirectory
    from verifier.tokens import Policy

    text, now = sys.stdin.read().strip(), int(time.time())
    keyring = KeyDirectory(keys / "public").load()
    verdicts = diagnose(text, Policy(issuer, application_id, keyring, now, leeway, max_lifetime))
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
        sys.exit(REFUSED)


@cli.command()
@click.option("--host", envvar="VERIFIER_HOST", default="127.0.0.1", show_default=True, show_envvar=True)
@click.option("--port", type=int, envvar="VERIFIER_PORT", default=8000, show_default=True, show_envvar=True)
def healthcheck(host: str, port: int) -> None:
    """Ask the server on this machine whether it is ready; for containers."""
    import http.client

    # A server that listens on every address is asked on this machine's own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        status = json.loads(answer.read())["status"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as exc:
        raise CommandRefused(f"no verifier answers on {host} port {port} ({type(exc).__name__})") from exc
    finally:
        connection.close()
    click.echo(status)
    if answer.status != 200:
        sys.exit(REFUSED)


@cli.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=".verifier-dev",
    show_default=True,
    help="Where to keep the throwaway keys.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="VERIFIER_PORT",
    default=8000,
    show_default=True,
    help="The next free one is used.",
)
@click.option("--once", is_flag=True, help="Stop after the answer.")
def dev(folder: Path, port: int, once: bool) -> None:
    """Make throwaway keys, serve on 127.0.0.1, ask once as escs would, and keep serving until Ctrl-C."""
    from verifier import dev as development

    development.run(folder, port, once=once, say=click.echo)


cli.add_command(cli_keys.keys)
cli.add_command(cli_applications.applications)


@cli.command()
@click.argument("url", required=False)
@click.option("--application-id", envvar="VERIFIER_APPLICATION_ID", show_envvar=True, help="From the escs dashboard.")
@click.option(
    "--secret-file",
    type=click.File("rb"),
    envvar="VERIFIER_SECRET_KEY_FILE",
    show_envvar=True,
    help="File with the secret key; or VERIFIER_SECRET_KEY, or a prompt.",
)
@click.option("--token", type=click.File(), help="File with one valid token, - for standard input; or VERIFIER_TOKEN.")
@click.option("--keys", type=click.Path(path_type=Path), help="Sign with the current key of this folder.")
@click.option("--private-key", type=click.File("rb"), help="Sign with this PEM file.")
@click.option("--kid", help="Key ID of --private-key.")
@click.option("--issuer", envvar="VERIFIER_ISSUER", show_envvar=True, help="iss of the signed tokens.")
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
    """Run conformance checks against any Game API URL: send valid and hostile requests, grade the responses.

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
        target = Url.parse(url or "", allow_http=options["insecure"])
        context = check_context(options)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    results = []
    for result in runner.run(target, context, chosen, options["timeout"]):
        results.append(result)
        if sys.stderr.isatty():
            click.echo(f"\r{len(results):>3} of {len(chosen)}  {result.item.id:<20}", err=True, nl=False)
    if sys.stderr.isatty():
        click.echo(f"\r{'':40}\r", err=True, nl=False)
    click.echo(output.render_json(target, results) if as_json else output.render_text(results))
    if options["junit"]:
        options["junit"].write(output.render_junit(target, results))
    counts = output.tally(results)
    sent = sum(counts[level][outcome] for level in counts for outcome in ("pass", "fail"))
    if not sent:
        raise click.UsageError("no request was sent: the chosen cases cannot be built from this token")
    if counts["must"]["fail"] or (options["strict"] and counts["should"]["fail"]):
        sys.exit(REFUSED)


def check_context(options: dict[str, Any]) -> Any:
    """Build the context of `check`.

    Raises:
        ValueError: something is missing.
    """
    from verifier.conformance.forge import Context, Key

    kid, pem, token = options["kid"], options["private_key"] and options["private_key"].read(), ""
    if [options["keys"], options["private_key"], options["token"]].count(None) < 2:
        raise ValueError("give one of --keys, --private-key and --token")
    if options["keys"]:
        from verifier.keystore import Keystore

        store = Keystore(options["keys"])
        kid = store.signer(int(time.time())).kid
        pem = (store.private / f"{kid}.pem").read_bytes()
    elif not pem:
        token = (options["token"].read() if options["token"] else os.environ.get("VERIFIER_TOKEN", "")).strip()
    if not options["application_id"]:
        raise ValueError("--application-id is missing")
    if not pem and not token:
        raise ValueError("give --keys, --private-key and --kid, or --token")
    if pem and not (kid and options["issuer"]):
        raise ValueError("a key needs --issuer, and --private-key also --kid")
    secret = options["secret_file"] and options["secret_file"].read().decode("utf-8").rstrip("\r\n")
    secret = secret or os.environ.get("VERIFIER_SECRET_KEY")
    if not secret and sys.stdin.isatty():
        secret = click.prompt("Secret key", hide_input=True, err=True)
    if not secret:
        raise ValueError("the secret key is missing: --secret-file, or VERIFIER_SECRET_KEY")
    key = Key.load(pem, kid, options["issuer"]) if pem else None
    return Context(options["application_id"], secret, token, key)


def main() -> None:
    """The `verifier` command."""
    try:
        cli.main(prog_name="verifier")
    except (OSError, UnicodeError) as exc:
        where = f"{exc.filename}: " if isinstance(exc, OSError) and exc.filename else ""
        click.echo(f"verifier: error: {where}{getattr(exc, 'strerror', None) or 'not UTF-8'}", err=True)
        sys.exit(COULD_NOT_START)
    except (CannotIssue, ConfigError) as exc:
        click.echo(f"verifier: error: {exc}", err=True)
        hint = getattr(exc, "hint", "")
        if hint:
            click.echo(f"verifier: hint: {hint}", err=True)
        sys.exit(REFUSED if isinstance(exc, CannotIssue | CommandRefused) else COULD_NOT_START)


if __name__ == "__main__":
    main()

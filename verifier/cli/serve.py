"""`verifier serve` and `verifier healthcheck`."""

import os
import sys

import click

from verifier.cli.exit_codes import EXIT_REFUSED
from verifier.errors import UnsafeOperationError
from verifier.server.settings import Settings


@click.command()
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
@click.option(
    "--max-staleness",
    help="Longest time in seconds without a read of the files. [env: VERIFIER_MAX_STALENESS; default: 300]",
)
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
    from verifier.server import run

    run.serve(settings)


@click.command()
@click.option("--host", envvar="VERIFIER_HOST", default="127.0.0.1", show_default=True, show_envvar=True)
@click.option("--port", type=int, envvar="VERIFIER_PORT", default=8000, show_default=True, show_envvar=True)
def healthcheck(host: str, port: int) -> None:
    """Query whether the server on this machine is ready; for containers."""
    from verifier.conformance import NoResponseError, escape, get_json

    # A server that listens on every address is queried on the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        status, members = get_json(f"http://{f'[{host}]' if ':' in host else host}:{port}/readyz", timeout_s=3)
    except NoResponseError as exc:
        raise UnsafeOperationError(str(exc), hint=exc.fix) from exc
    except ValueError as exc:
        raise click.UsageError(f"--host or --port: {exc}") from exc
    if not isinstance(members.get("status"), str):
        text = f"{host} port {port} is not a verifier (no status at /readyz)"
        raise UnsafeOperationError(text, hint="correct the port")
    click.echo(escape(members["status"]))
    if status != 200:
        sys.exit(EXIT_REFUSED)

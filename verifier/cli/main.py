"""The command group, and the one place where errors become messages and exit statuses."""

import sys

import click

from verifier._version import __version__
from verifier.cli.applications import applications
from verifier.cli.check import check
from verifier.cli.dev import dev
from verifier.cli.evidence import audit, confirm, report
from verifier.cli.exit_codes import EXIT_CONFIG_ERROR, EXIT_REFUSED
from verifier.cli.keys import keys
from verifier.cli.serve import healthcheck, serve
from verifier.cli.token import explain, token
from verifier.core.encoding import printable
from verifier.errors import ConfigError, IssueError, UnsafeOperationError

# The modules that the extra `server` installs.
SERVER_MODULES = {"httptools", "jinja2", "prometheus_client", "starlette", "structlog", "uvicorn", "uvloop"}

# Each command imports what it needs when it runs, because `serve` must never load what signs.


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="verifier")
def cli() -> None:
    """The Game API URL for escs, without a database: a signed token in, the player's profile out.

    Exit status: 0 success, 1 check failed or change refused, 2 usage error, 3 configuration error.
    """


for command in (serve, token, explain, healthcheck, dev, keys, applications, check):
    cli.add_command(command)
for command in (confirm, audit, report):
    keys.add_command(command)


def main() -> None:
    """The `verifier` command."""
    try:
        cli.main(prog_name="verifier")
    except ModuleNotFoundError as exc:
        module = (exc.name or "").partition(".")[0]
        if module not in SERVER_MODULES:
            raise
        click.echo(f"verifier: error: this command needs the module {module}, which is not installed", err=True)
        click.echo("verifier: hint: pip install 'escs-verifier[server]'", err=True)
        sys.exit(EXIT_CONFIG_ERROR)
    except (OSError, UnicodeError) as exc:
        where = f"{exc.filename}: " if isinstance(exc, OSError) and exc.filename else ""
        click.echo(f"verifier: error: {printable(where)}{getattr(exc, 'strerror', None) or 'not UTF-8'}", err=True)
        sys.exit(EXIT_CONFIG_ERROR)
    except (IssueError, ConfigError) as exc:
        # File names, reasons and the like come from outside.
        click.echo(f"verifier: error: {printable(str(exc))}", err=True)
        hint = getattr(exc, "hint", "")
        if hint:
            click.echo(f"verifier: hint: {printable(hint)}", err=True)
        sys.exit(EXIT_REFUSED if isinstance(exc, IssueError | UnsafeOperationError) else EXIT_CONFIG_ERROR)

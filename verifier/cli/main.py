"""The command group, and the one place where errors become messages and exit statuses."""

import io
import shlex
import sys
from collections import UserDict
from importlib import import_module
from typing import Any, NoReturn

import click

from verifier._version import __version__
from verifier.cli.exit_codes import EXIT_CONFIG_ERROR, EXIT_REFUSED
from verifier.cli.help import CommandGroup, add_examples
from verifier.cli.program import COMMANDS, with_files
from verifier.conformance import NoResponseError
from verifier.core.encoding import printable
from verifier.errors import ConfigError, IssueError, UnsafeOperationError

# The modules that the extra `server` installs.
SERVER_MODULES = {"httptools", "jinja2", "prometheus_client", "starlette", "structlog", "uvicorn", "uvloop"}


class Commands(UserDict[str, Any]):
    """Commands and their modules: one is imported when it is used, because `serve` must never load what signs."""

    def __getitem__(self, name: str) -> click.Command:
        command: click.Command = getattr(import_module(f"verifier.cli.{super().__getitem__(name)}"), name)
        add_examples(command, (name,))
        return command


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="verifier")
def cli() -> None:
    """The Game API URL for escs, without a database: a signed token in, the player's profile out.

    Exit status: 0 success, 1 check failed or change refused, 2 usage error, 3 configuration error.
    """


add_examples(cli)
cli.commands = Commands({name: name for name in COMMANDS} | {"explain": "token"})


def main() -> None:
    """Run the `verifier` command."""
    files: dict[str, str] = {}
    if sys.stdin is None:  # it was closed
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    try:
        sys.exit(cli.main(prog_name="verifier", standalone_mode=False, obj=files))
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx else "verifier"
        _fail(_sentence(exc), with_files(f"{command} --help shows the usage and examples", {}), exc.exit_code)
    except click.ClickException as exc:
        _fail(_sentence(exc), "", EXIT_CONFIG_ERROR)
    except click.Abort:
        _fail("aborted", "", EXIT_REFUSED)
    except NoResponseError as exc:
        _fail(str(exc), exc.cause.fix, EXIT_REFUSED)
    except ModuleNotFoundError as exc:
        module = (exc.name or "").partition(".")[0]
        if module not in SERVER_MODULES:
            raise
        text = f"this command needs the module {module}, which is not installed"
        install = shlex.join([sys.executable, "-m", "pip", "install", "escs-verifier[server]"])  # into this environment
        _fail(text, install, EXIT_CONFIG_ERROR)
    except (OSError, UnicodeError) as exc:
        where = f"{exc.filename}: " if isinstance(exc, OSError) and exc.filename else ""
        _fail(f"{where}{getattr(exc, 'strerror', None) or 'not UTF-8'}", "", EXIT_CONFIG_ERROR)
    except (IssueError, ConfigError) as exc:
        status = EXIT_REFUSED if isinstance(exc, IssueError | UnsafeOperationError) else EXIT_CONFIG_ERROR
        _fail(str(exc), with_files(getattr(exc, "hint", ""), files), status)


def _sentence(exc: click.ClickException) -> str:
    """Return the message of click in the form of the other errors: one line, no capital, no full stop."""
    text = " ".join(exc.format_message().split()).removesuffix(".")
    return text[:1].lower() + text[1:]


def _fail(error: str, hint: str, status: int) -> NoReturn:
    # File names, reasons and the like come from outside.
    click.echo(f"verifier: error: {printable(error)}", err=True)
    if hint:
        click.echo(f"verifier: hint: {printable(hint)}", err=True)
    sys.exit(status)

"""Text for people: everything that comes from outside is escaped, because a terminal obeys control characters."""

import sys

import click

from verifier.cli.program import with_files
from verifier.core.encoding import printable

_PROGRESS_COLUMNS = 48


def echo(text: str, *, err: bool = False) -> None:
    """Print a line."""
    context = click.get_current_context(silent=True)
    text = with_files(text, (context.obj if context else None) or {})
    write("\n".join(map(printable, text.split("\n"))), err=err)


def write(text: str, *, err: bool = False) -> None:
    """Print text as it is; an error names the stream."""
    try:
        click.echo(text, err=err)
    except OSError as exc:
        exc.filename = "standard error" if err else "standard output"
        raise


def warn(text: str) -> None:
    """Print a line about the command to standard error."""
    echo(f"verifier: warning: {text}", err=True)


def progress(number: int, total: int, text: str) -> None:
    """Replace the progress line on a terminal; elsewhere print nothing."""
    if sys.stderr.isatty():
        line = f"{number:>3} of {total}  {printable(text)}"
        click.echo(f"\r{line[:_PROGRESS_COLUMNS]:<{_PROGRESS_COLUMNS}}", err=True, nl=False)


def end_progress() -> None:
    """Remove the progress line from a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r{'':{_PROGRESS_COLUMNS}}\r", err=True, nl=False)


def next_step(text: str) -> None:
    """State on a terminal what to do next; elsewhere print nothing, because the reader is a program."""
    if sys.stderr.isatty():
        echo(f"next    {text}", err=True)

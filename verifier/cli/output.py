"""Text for people: everything that comes from outside is escaped, because a terminal obeys control characters."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import click

from verifier.cli.program import with_files
from verifier.core.encoding import printable

_PROGRESS_COLUMNS = 48
T = TypeVar("T")


def echo(text: str, *, err: bool = False) -> None:
    """Print a line."""
    context = click.get_current_context(silent=True)
    text = with_files(text, (context.obj if context else None) or {})
    write(printable(text), err=err)


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


def show_progress(items: Iterable[T], total: int, name: Callable[[T], str] = str) -> Iterator[T]:
    """Yield the items; on a terminal, show the number and the name of each."""
    on_terminal = sys.stderr.isatty()
    for number, item in enumerate(items, start=1):
        if on_terminal:
            line = f"{number:>3} of {total}  {printable(name(item))}"
            click.echo(f"\r{line[:_PROGRESS_COLUMNS]:<{_PROGRESS_COLUMNS}}", err=True, nl=False)
        yield item
    if on_terminal and total:
        click.echo(f"\r{'':{_PROGRESS_COLUMNS}}\r", err=True, nl=False)


def next_step(text: str) -> None:
    """State on a terminal what to do next; elsewhere print nothing, because the reader is a program."""
    if sys.stderr.isatty():
        echo(f"next    {text}", err=True)


def expect_input(what: str) -> None:
    """State on a terminal what is read from it, and how it ends; elsewhere print nothing."""
    if sys.stdin.isatty():
        echo(f"Paste {what}, then press Enter and Ctrl-D.", err=True)

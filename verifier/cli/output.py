"""Text for people: everything that comes from outside is escaped, because a terminal obeys control characters."""

import click

from verifier.core.encoding import printable


def echo(text: str, *, err: bool = False) -> None:
    """Print a line."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def warn(text: str) -> None:
    """Print a line about the command to standard error."""
    echo(f"verifier: warning: {text}", err=True)

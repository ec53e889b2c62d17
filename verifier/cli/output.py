"""Text for people: everything that comes from outside is escaped, because a terminal obeys control characters."""

import click


def escape(text: str) -> str:
    """Return the text with every unprintable character except a line break as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(escape(text), err=err)


def warn(text: str) -> None:
    """Print a line about the command to standard error."""
    echo(f"verifier: warning: {text}", err=True)

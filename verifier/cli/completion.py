"""`verifier completion`: the script with which a shell completes commands and options."""

import click
from click.shell_completion import get_completion_class

from verifier.cli.output import write


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    Write it to an existing folder that the shell reads completions from (zsh: one in fpath), and start a new shell.
    """
    complete = get_completion_class(shell)
    assert complete is not None, "click has a class for every choice"  # noqa: S101
    root = click.get_current_context().find_root().command
    write(complete(root, {}, "verifier", "_VERIFIER_COMPLETE").source())

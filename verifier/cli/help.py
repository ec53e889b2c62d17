"""The help: examples for every command, and summaries that are not truncated."""

import click

# What follows `verifier` and the command. Lines of at most 90 characters: help is not wrapped inside an example.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "dev",
        "keys generate",
        "applications add my-application",
        "serve --issuer https://game.example --applications applications.json",
    ),
    "applications": ("add my-application", "list"),
    "applications add": ("my-application", "my-application < secret"),
    "applications list": ("", "--metrics http://127.0.0.1:9000/metrics"),
    "applications remove-secret": ("my-application --slot 1",),
    "applications rotate-secret": ("my-application",),
    "check": (
        "https://game.example/profile --application-id my-application \\\n"
        "  --secret-file secret --keys keys --issuer https://game.example",
        "--list",
    ),
    "completion": (
        "bash > ~/.local/share/bash-completion/completions/verifier",
        "zsh > ~/.zfunc/_verifier",
        "fish > ~/.config/fish/completions/verifier.fish",
    ),
    "dev": ("", "--once --port 8080"),
    "explain": ("--issuer https://game.example --application-id my-application < token",),
    "healthcheck": ("", "--port 8080"),
    "keys": ("generate", "list", "rotate --lead 1h"),
    "keys audit": ("--replica http://10.0.0.1:8000 --applications applications.json",),
    "keys cancel": ("",),
    "keys confirm": ("http://10.0.0.1:8000 http://10.0.0.2:8000 --record",),
    "keys generate": ("", "--alg EdDSA --keys path/to/keys"),
    "keys import": ("public.pem --note 'key of the KMS'", "- < jwks.json"),
    "keys list": ("", "--json"),
    "keys merge": ("",),
    "keys prune": ("--retention 400d",),
    "keys recover": ("", "--undo"),
    "keys report": ("--html report.html", "--json --replica http://10.0.0.1:8000"),
    "keys revoke": ("--kid kPrK_qmx --reason 'private key leaked' --replace",),
    "keys rotate": ("", "--lead 30m --alg EdDSA"),
    "serve": (
        "--issuer https://game.example --applications applications.json",
        "--host 0.0.0.0 --port 8080 --workers 2 --log-format json",
    ),
    "token": (
        "player-42 --issuer https://game.example --application-id my-application",
        "player-42 --username ann --lifetime 60 \\\n  --issuer https://game.example --application-id my-application",
    ),
}


class CommandGroup(click.Group):
    """A group that wraps the summaries of its commands; click would truncate them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one entry per command: its name and the first sentence of its help."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.commands[name].get_short_help_str(limit=1000)) for name in self.list_commands(ctx)]
            )


def add_examples(command: click.Command, path: tuple[str, ...] = ()) -> None:
    """Append the examples to the help of a command and of those below it."""
    examples = [" ".join(["verifier", *path, text]).rstrip() for text in EXAMPLES.get(" ".join(path), ())]
    lines = [f"  {line}" for example in examples for line in example.split("\n")]
    command.epilog = "\n".join(["\b", "Examples:", *lines]) if lines else None
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            add_examples(child, (*path, name))

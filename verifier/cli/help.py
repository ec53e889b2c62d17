"""The help: examples for every command, and summaries that are not truncated."""

import click

# By the words after `verifier`. On lines of at most 90 characters, because help is not wrapped inside an example.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "verifier dev",
        "verifier keys generate",
        "verifier applications add my-application",
        "verifier serve --issuer https://game.example --applications applications.json",
    ),
    "applications": ("verifier applications add my-application", "verifier applications list"),
    "applications add": (
        "verifier applications add my-application",
        "verifier applications add my-application < secret",
    ),
    "applications list": (
        "verifier applications list",
        "verifier applications list --metrics http://127.0.0.1:9000/metrics",
    ),
    "applications remove-secret": ("verifier applications remove-secret my-application --slot 1",),
    "applications rotate-secret": ("verifier applications rotate-secret my-application",),
    "check": (
        "verifier check https://game.example/profile --application-id my-application \\",
        "  --secret-file secret --keys keys --issuer https://game.example",
        "verifier check --list",
    ),
    "completion": (
        "verifier completion bash > ~/.local/share/bash-completion/completions/verifier",
        "verifier completion zsh > ~/.zfunc/_verifier",
        "verifier completion fish > ~/.config/fish/completions/verifier.fish",
    ),
    "dev": ("verifier dev", "verifier dev --once --port 8080"),
    "explain": ("verifier explain --issuer https://game.example --application-id my-application < token",),
    "healthcheck": ("verifier healthcheck", "verifier healthcheck --port 8080"),
    "keys": ("verifier keys generate", "verifier keys list", "verifier keys rotate --lead 1h"),
    "keys audit": ("verifier keys audit --replica http://10.0.0.1:8000 --applications applications.json",),
    "keys cancel": ("verifier keys cancel",),
    "keys confirm": ("verifier keys confirm http://10.0.0.1:8000 http://10.0.0.2:8000 --record",),
    "keys generate": ("verifier keys generate", "verifier keys generate --alg EdDSA --keys path/to/keys"),
    "keys import": ("verifier keys import public.pem --note 'key of the KMS'", "verifier keys import - < jwks.json"),
    "keys list": ("verifier keys list", "verifier keys list --json"),
    "keys merge": ("verifier keys merge",),
    "keys prune": ("verifier keys prune --retention 400d",),
    "keys recover": ("verifier keys recover", "verifier keys recover --undo"),
    "keys report": (
        "verifier keys report --html report.html",
        "verifier keys report --json --replica http://10.0.0.1:8000",
    ),
    "keys revoke": ("verifier keys revoke --kid kPrK_qmx --reason 'private key leaked' --replace",),
    "keys rotate": ("verifier keys rotate", "verifier keys rotate --lead 30m --alg EdDSA"),
    "serve": (
        "verifier serve --issuer https://game.example --applications applications.json",
        "verifier serve --host 0.0.0.0 --port 8080 --workers 2 --log-format json",
    ),
    "token": (
        "verifier token player-42 --issuer https://game.example --application-id my-application",
        "verifier token player-42 --username ann --lifetime 60 \\",
        "  --issuer https://game.example --application-id my-application",
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
    lines = [f"  {line}" for line in EXAMPLES.get(" ".join(path), ())]
    command.epilog = "\n".join(["\b", "Examples:", *lines]) if lines else None
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            add_examples(child, (*path, name))
